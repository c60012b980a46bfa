/* Directories that a restored container shares with its pod: what the wrapper puts there, and what a failure leaves. */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openPodStarts } from '../../engine/pod-starts.ts';
import { runSpawn } from '../../native/run/run-spawn.ts';
import { WrapperBundle } from '../../test/harness/wrapper-bundle.ts';
import { createOrRestore, type Outcome } from './create.ts';

const POD = {
  'io.kubernetes.cri.container-type': 'container',
  'io.kubernetes.cri.container-name': 'app',
  'io.kubernetes.cri.sandbox-namespace': 'shop',
  'io.kubernetes.cri.sandbox-name': 'web-0',
  'io.kubernetes.cri.sandbox-uid': '11111111-2222',
};

let made: WrapperBundle;
let volume: string;

beforeEach(() => {
  made = new WrapperBundle();
  volume = join(made.dir, 'volume');
  for (const dir of [volume, join(made.dir, 'run')]) {
    mkdirSync(dir);
  }
  openPodStarts({ runDir: join(made.dir, 'run'), stateDir: join(made.dir, 'state') });
});

afterEach(() => made.remove());

/** A checkpoint that has one file for a volume. @returns the name of the archive */
async function archive(name: 'dev-shm' | 'volume-0'): Promise<string> {
  writeFileSync(join(made.dir, 'segment'), 'shared');
  await runSpawn('tar', ['-cf', join(made.dir, `checkpoint/fs/${name}.tar`), '-C', made.dir, 'segment']);
  return `fs/${name}.tar`;
}

/** The container asks for its restore, with the volume there. */
function asks(destination: string, annotations: Record<string, string>): void {
  made.asks(annotations, [], [{ destination, type: 'bind', source: volume, options: ['rbind'] }]);
}

/** @param volumes as the agent names them @returns what runc has found in the volume, which then fails */
async function failingRestore(
  volumes?: WrapperBundle['volumes'],
): Promise<{ readonly within: readonly string[]; readonly outcome: Outcome }> {
  let within: string[] = [];
  made.volumes = volumes;
  const { runInherited: fails } = made.failing();
  const deps = made.deps({
    run: runSpawn,
    runInherited: (...call) => {
      within = readdirSync(volume);
      return fails(...call);
    },
  });
  return { outcome: await createOrRestore(deps, made.argv), within };
}

it.each(['dev-shm', 'volume-0'] as const)(
  'a pod has %s filled, and finds it as it was after a failure',
  async (name) => {
    const file = await archive(name);
    asks(name === 'dev-shm' ? '/dev/shm' : '/cache', POD);

    const { within, outcome } = await failingRestore([{ file, dir: volume }]);

    expect(outcome.kind).toBe('failed');
    expect(within).toEqual(['segment']);
    expect(readdirSync(volume)).toEqual([]);
  },
);

it('nothing is put into a pod that the agent does not name', async () => {
  await archive('dev-shm');
  asks('/dev/shm', POD);

  expect((await failingRestore([])).within).toEqual([]);
});

it('a container of no pod has its /dev/shm filled by its own specification', async () => {
  await archive('dev-shm');
  asks('/dev/shm', {});

  expect((await failingRestore()).within).toEqual(['segment']);
});

it('no container is started afresh where files of a checkpoint lie among those of others', async () => {
  const file = await archive('volume-0');
  asks('/cache', { ...POD, 'kybernate.io/on-failure': 'cold-start' });
  writeFileSync(join(volume, 'of-a-sidecar'), '');

  const { outcome } = await failingRestore([{ file, dir: volume }]);

  expect(outcome).toMatchObject({
    kind: 'failed',
    message: expect.stringContaining('no cold start either') as string,
  });
  expect(readdirSync(volume).sort()).toEqual(['of-a-sidecar', 'segment']);
});

it('a container of no pod has its own volumes filled as the agent names them, beside its /dev/shm', async () => {
  await archive('dev-shm');
  const file = await archive('volume-0');
  const cache = join(made.dir, 'cache');
  mkdirSync(cache);
  asks('/dev/shm', {});

  const { within } = await failingRestore([{ file, dir: cache }]);

  expect(within).toEqual(['segment']);
  expect(readdirSync(cache)).toEqual([]);
});

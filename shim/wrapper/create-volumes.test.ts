/* Directories that a restored container shares with its pod: what the wrapper puts there, and what a failure leaves. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { PrepareRestoreResponse } from '../../core/contract/restore.ts';
import { openPodStarts } from '../../engine/pod-starts.ts';
import { runSpawn } from '../../native/run/run-spawn.ts';
import type { RunResult } from '../../native/run/run.ts';
import { createOrRestore, type Outcome } from './create.ts';

const FAILED: RunResult = {
  exitCode: 1,
  timedOut: false,
  cancelled: false,
  forceKilled: false,
  durationMs: 1,
  stdout: '',
  stderr: '',
};
const POD = {
  'io.kubernetes.cri.container-type': 'container',
  'io.kubernetes.cri.container-name': 'app',
  'io.kubernetes.cri.sandbox-namespace': 'shop',
  'io.kubernetes.cri.sandbox-name': 'web-0',
  'io.kubernetes.cri.sandbox-uid': '11111111-2222',
};

let dir: string;
let volume: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrapper-volumes-'));
  volume = join(dir, 'volume');
  for (const part of ['bundle/rootfs', 'checkpoint/fs', 'work', 'root/default/id', 'run', 'volume']) {
    mkdirSync(join(dir, part), { recursive: true });
  }
  openPodStarts({ runDir: join(dir, 'run'), stateDir: join(dir, 'state') });
  writeFileSync(
    join(dir, 'checkpoint/metadata.json'),
    JSON.stringify({ capture: { tcp: 'keep', criuOptions: [] }, stdio: { terminal: false }, gpuProcesses: [] }),
  );
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A checkpoint that has one file for a volume. @returns the name of the archive */
async function archive(name: 'dev-shm' | 'volume-0'): Promise<string> {
  writeFileSync(join(dir, 'segment'), 'shared');
  await runSpawn('tar', ['-cf', join(dir, `checkpoint/fs/${name}.tar`), '-C', dir, 'segment']);
  return `fs/${name}.tar`;
}

/** The container asks for its restore, with the volume there. */
function asks(destination: string, annotations: object): void {
  const mounts = [{ destination, type: 'bind', source: volume, options: ['rbind'] }];
  const wish = { ...annotations, 'kybernate.io/restore-from': 'ck-1' };
  writeFileSync(join(dir, 'bundle/config.json'), JSON.stringify({ annotations: wish, mounts, process: { env: [] } }));
  writeFileSync(join(dir, 'checkpoint/config.json'), JSON.stringify({ mounts }));
}

/** @param volumes as the agent names them @returns what runc has found in the volume, which then fails */
async function failingRestore(
  volumes?: PrepareRestoreResponse['volumes'],
): Promise<{ readonly within: readonly string[]; readonly outcome: Outcome }> {
  let within: string[] = [];
  const globals = ['--root', join(dir, 'root/default'), '--log', join(dir, 'log.json'), '--log-format', 'json'];
  const outcome = await createOrRestore(
    {
      runcPath: '/bin/true',
      runDir: join(dir, 'run'),
      agent: {
        prepareRestore: (call) =>
          Promise.resolve({
            operationId: '0123456789abcdef0123456789abcdef',
            checkpointDir: join(dir, 'checkpoint'),
            imageDir: join(dir, 'checkpoint/criu'),
            workDir: join(dir, 'work'),
            tcp: 'close',
            onFailure: call.onFailure === 'cold-start' ? 'cold-start' : 'fail',
            hasMetadata: true,
            restoreBudgetMs: 1000,
            ...(volumes === undefined ? {} : { volumes }),
          }),
        completeRestore: () => Promise.resolve({ proceed: true }),
      },
      run: runSpawn,
      runInherited: () => {
        within = readdirSync(volume);
        return Promise.resolve(FAILED);
      },
      env: {},
      signal: new AbortController().signal,
      log: () => undefined,
    },
    [...globals, 'create', '--bundle', join(dir, 'bundle'), 'id'],
  );
  return { within, outcome };
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

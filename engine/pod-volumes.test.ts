/* What a checkpoint takes of its pod, with a real process in a mount namespace of its own that holds files there. */
import { type ChildProcess, spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../cli/dev/wait.ts';
import { runExeca } from '../native/run/run-execa.ts';
import { readProcLink } from '../native/proc/read.ts';
import type { ProcessSurvey } from './analysis-process.ts';
import type { ContainerFacts } from './container-facts.ts';
import { TAR_CREATE } from './rootfs.ts';
import { chooseVolumes, measureVolumes, type VolumeChoice } from './pod-volumes.ts';

const POD = { namespace: 'shop', name: 'web-0', uid: 'u-1', container: 'app' };

let dir: string;
let cache: string;
let shm: string;
let inside: string;
let holder: ChildProcess | undefined;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-volumes-'));
  cache = join(dir, 'pods/u-1/volumes/kubernetes.io~empty-dir/cache');
  shm = join(dir, 'sandboxes/s-1/shm');
  inside = join(dir, 'inside');
  [cache, shm, inside].forEach((path) => mkdirSync(path, { recursive: true }));
});
afterEach(() => {
  holder?.kill('SIGKILL');
  holder = undefined;
  rmSync(dir, { recursive: true, force: true });
});

/** Sees the volume at `inside`. @param script ends with a program that waits, which it becomes */
async function hold(script: string, ready: (hostPid: number) => boolean): Promise<void> {
  const mounted = `mount --bind "${cache}" "${inside}"; ${script}`;
  const child = spawn('unshare', ['--mount', '--propagation', 'private', '--', 'sh', '-euc', mounted], {
    stdio: 'ignore',
  });
  holder = child;
  await waitFor('holder', 10_000, () => ready(Number(child.pid)));
}

function facts(list: string | undefined, more: Partial<ContainerFacts> = {}): ContainerFacts {
  const spec = {
    annotations: {
      'io.kubernetes.cri.sandbox-id': 's-1',
      'io.kubernetes.cri.sandbox-uid': 'u-1',
      ...(list === undefined ? {} : { 'kybernate.io/capture-volumes': list }),
    },
    mounts: [
      { destination: inside, source: cache, type: 'bind', options: ['rbind'] },
      { destination: '/dev/shm', source: shm, type: 'bind', options: ['rbind'] },
    ],
  };
  return {
    record: { spec: JSON.stringify(spec) },
    mounts: spec.mounts.map((mount) => ({ ...mount, captured: false, sourceKind: 'directory' })),
    processes: holder === undefined ? [] : [{ hostPid: Number(holder.pid), command: 'holder', entered: false }],
    pod: POD,
    ...more,
  } as unknown as ContainerFacts;
}

function choose(
  list: string | undefined,
  more: Partial<ContainerFacts> = {},
  surveys: ProcessSurvey[] = [],
): VolumeChoice {
  return chooseVolumes(facts(list, more), surveys, { kubeletDir: dir, stateDir: dir });
}

test('a pod that lists nothing has its shared memory captured, and is told of volumes with content that stays behind', () => {
  const devShm = { name: '/dev/shm', destination: '/dev/shm', source: shm, file: 'fs/dev-shm.tar' };
  expect(choose(undefined)).toEqual({ volumes: [devShm], refusals: [], warnings: [] });

  writeFileSync(join(cache, 'file'), '');
  expect(choose(undefined).warnings).toEqual([
    `the volume cache (emptyDir) at ${inside} is not captured: another pod has it empty`,
  ]);
});

test('what is listed is captured, each into a file of its own, and nothing else', () => {
  const listed = { name: 'cache', destination: inside, source: cache, file: 'fs/volume-0.tar' };

  expect(choose('cache').volumes).toEqual([listed]);
  expect(choose('/dev/shm, cache').volumes.map(({ file }) => file)).toEqual(['fs/dev-shm.tar', 'fs/volume-0.tar']);
  expect(choose('-').volumes).toEqual([]);
});

test('a volume that is mounted at two places is captured once', () => {
  const mounts = [inside, '/elsewhere'].map((destination) => ({ destination, source: cache, options: ['rbind'] }));
  const record = { spec: JSON.stringify({ annotations: { 'kybernate.io/capture-volumes': 'cache' }, mounts }) };

  expect(choose('', { record: record as ContainerFacts['record'] }).volumes).toMatchObject([{ destination: inside }]);
});

test.each<[string, string, (hostPid: number) => boolean, string]>([
  [
    'a file that is open',
    'exec 9>"$PWD/file"; exec sleep 60',
    (hostPid) => readProcLink(`/proc/${hostPid}/fd/9`) !== undefined,
    'file',
  ],
  [
    'a program that runs',
    'exec ./program 60',
    (hostPid) => readProcLink(`/proc/${hostPid}/exe`)?.endsWith('program') === true,
    'program',
  ],
  [
    'a directory in which a process is',
    'mkdir below; cd below; exec sleep 60',
    (hostPid) =>
      readProcLink(`/proc/${hostPid}/cwd`)?.endsWith('below') === true &&
      readProcLink(`/proc/${hostPid}/exe`)?.includes('sh') === false,
    'below',
  ],
])(
  '%s in a volume that is not listed refuses the checkpoint, by its name and with what to do',
  async (_what, script, ready, name) => {
    copyFileSync('/bin/sleep', join(cache, 'program'));
    await hold(`cd "${inside}"; ${script}`, ready);

    const { refusals } = choose('/dev/shm');

    expect(refusals).toHaveLength(1);
    expect(refusals[0]).toContain(`(holder) has ${join(inside, name)} open, in the volume cache (emptyDir)`);
    expect(refusals[0]).toContain(
      "name cache in captureVolumes or in the pod's annotation kybernate.io/capture-volumes",
    );
    expect(choose('cache').refusals).toEqual([]);
  },
);

test('the root of a volume may be open: every pod has it', async () => {
  await hold(`cd "${inside}"; exec sleep 60`, (hostPid) => readProcLink(`/proc/${hostPid}/cwd`) === inside);

  expect(choose(undefined).refusals).toEqual([]);
});

test('an open file of a volume that lives on under another name only is refused', async () => {
  await hold('exec sleep 60', (hostPid) => readProcLink(`/proc/${hostPid}/exe`)?.endsWith('sleep') === true);
  const deletedFiles = [{ path: join(inside, 'was'), links: 1, bytes: 0 }];
  const survey = {
    process: { hostPid: Number(holder?.pid), command: 'holder' },
    deletedFiles,
  } as unknown as ProcessSurvey;

  expect(choose('cache', {}, [survey]).refusals).toEqual([
    expect.stringContaining(`${join(inside, 'was')} is open in process`) as string,
  ]);
});

test('a list of names that the container does not have, or of no names, is refused', () => {
  expect(choose('cache,scratch').refusals).toEqual([
    'the annotation kybernate.io/capture-volumes names the volume scratch, and the container has no emptyDir of this name (it has: cache, /dev/shm)',
  ]);
  expect(() => choose('a/b')).toThrow(/no list of volumes/);
  const mounts = [{ destination: '/dev/shm', source: '/dev/shm', type: 'bind', options: ['rbind'], captured: false }];
  const record = { spec: JSON.stringify({ annotations: { 'kybernate.io/capture-volumes': '/dev/shm' }, mounts }) };
  expect(choose('', { record: record as ContainerFacts['record'], mounts }).refusals).toEqual([
    'the annotation kybernate.io/capture-volumes names /dev/shm, which is /dev/shm of the node here: it cannot be captured',
  ]);
});

test('what a request names counts more than the annotation of the pod, and is refused where nothing has the name', () => {
  const request = (...names: string[]): VolumeChoice =>
    chooseVolumes(facts('-'), [], { kubeletDir: dir, stateDir: dir }, names);

  expect(request('cache').volumes.map(({ name }) => name)).toEqual(['cache']);
  expect(chooseVolumes(facts('cache'), [], { kubeletDir: dir, stateDir: dir }, ['-']).volumes).toEqual([]);
  expect(request('scratch').refusals).toEqual([
    'captureVolumes of the request names the volume scratch, and the container has no emptyDir of this name (it has: cache, /dev/shm)',
  ]);
});

test('a socket in a directory of an unlisted volume is told by its path; at the top of one it is made again', async () => {
  const script = `
import os, socket, sys, time
os.makedirs(sys.argv[1] + "/deep")
os.chdir(sys.argv[1])
kept = []
for name in ["deep/relative", sys.argv[1] + "/deep/full", "top", "\\0abstract/deep"]:
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind(name)
open(sys.argv[2], "w").close()
time.sleep(1000)`;
  const ready = join(dir, 'ready');
  writeFileSync(join(dir, 'bind.py'), script);
  await hold(`exec python3 "${join(dir, 'bind.py')}" "${inside}" "${ready}"`, () => existsSync(ready));

  const [refusal, ...others] = choose('-').refusals;

  const [, paths = ''] = /has (.*) open, in the volume cache \(emptyDir\)/.exec(refusal ?? '') ?? [];
  expect(paths.split(', ').sort()).toEqual([`${inside}/deep/full`, `${inside}/deep/relative`]);
  expect(others).toEqual([]);
});

test('beside pods the places of an earlier restore are captured as they are', () => {
  const place = join(dir, 'volumes', '0123456789abcdef0123456789abcdef', '0-cache');
  mkdirSync(place, { recursive: true });
  const { pod: _none, ...alone } = facts(undefined);
  const mounts = [{ destination: '/cache', source: place, type: 'bind', options: ['rbind'] }];
  const copy = { ...alone, record: { ...alone.record, spec: JSON.stringify({ mounts }) }, mounts: [] };

  expect(chooseVolumes(copy, [], { stateDir: dir })).toEqual({
    volumes: [{ name: 'cache', destination: '/cache', source: place, file: 'fs/volume-0.tar' }],
    refusals: [],
    warnings: [],
  });
  expect(chooseVolumes(copy, [], { stateDir: dir }, ['scratch']).refusals).toHaveLength(1);
});

test('beside pods a /dev/shm from outside is captured as it is', () => {
  const { pod: _none, ...alone } = facts(undefined);

  expect(chooseVolumes(alone, [], { stateDir: dir })).toMatchObject({
    volumes: [{ source: shm, file: 'fs/dev-shm.tar' }],
    refusals: [],
  });
  expect(chooseVolumes({ ...alone, mounts: [] }, [], { stateDir: dir }).volumes).toEqual([]);
});

test('volumes that hold more than is allowed are refused before anything is touched', async () => {
  writeFileSync(join(cache, 'large'), Buffer.alloc(1024 * 1024, 1));
  const { volumes } = choose('cache');

  const measured = await measureVolumes(runExeca, volumes, { volumeLimitBytes: 4096 });

  expect(measured.bytes).toBeGreaterThanOrEqual(1024 * 1024);
  expect(measured.refusals).toEqual([
    expect.stringMatching(/^the volumes to capture \(cache\) take \d+ bytes as archives, 4096 are allowed/),
  ]);
  expect((await measureVolumes(runExeca, volumes, {})).refusals).toEqual([]);
});

test('of many files without content it counts what their archive takes', async () => {
  for (let file = 0; file < 200; file += 1) {
    writeFileSync(join(cache, `empty-${file}`), '');
  }
  const { volumes } = choose('cache');
  const tar = join(dir, 'cache.tar');
  const made = await runExeca('tar', [...TAR_CREATE, `--directory=${cache}`, `--file=${tar}`, '.']);

  const { bytes } = await measureVolumes(runExeca, volumes, {});

  expect(made.exitCode).toBe(0);
  expect(bytes).toBeGreaterThanOrEqual(statSync(tar).size);
});

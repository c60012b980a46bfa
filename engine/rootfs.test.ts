import { linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Op } from '../core/op.ts';
import { runExeca } from '../native/run/run-execa.ts';
import type { ContainerFacts } from './container-facts.ts';
import { applyRootfs } from './rootfs-apply.ts';
import { captureLinkRemap, captureRootfs } from './rootfs.ts';

let dir: string;
let upper: string;
let checkpoint: string;
let rootfs: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-rootfs-'));
  [upper, checkpoint, rootfs] = ['upper', 'checkpoint', 'rootfs'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  mkdirSync(join(upper, 'data'), { recursive: true });
  mkdirSync(join(checkpoint, 'fs'), { recursive: true });
  mkdirSync(rootfs);
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

const silent = (): void => undefined;
const op: Op = {
  signal: new AbortController().signal,
  progress: silent,
  log: { debug: silent, info: silent, warn: silent, error: silent },
};
const deps = {
  run: runExeca,
  containerd: (): never => {
    throw new Error('containerd is not asked');
  },
};

function facts(over: Partial<ContainerFacts> = {}): ContainerFacts {
  const record = { snapshotter: 'overlayfs', snapshotKey: 'c1' };
  return { initHostPid: process.pid, mounts: [], upperDir: upper, record, ...over } as unknown as ContainerFacts;
}

test('links that CRIU made come back as one file with the other names of their file', async () => {
  writeFileSync(join(upper, 'data/kept'), 'shared');
  linkSync(join(upper, 'data/kept'), join(upper, 'data/third'));
  writeFileSync(join(upper, 'data/other'), 'other');
  const rest = await captureRootfs(deps, facts(), checkpoint, op);
  linkSync(join(upper, 'data/kept'), join(upper, 'data/link_remap.3'));

  const links = await captureLinkRemap(deps, upper, checkpoint);
  await applyRootfs(rootfs, checkpoint, runExeca);

  expect(rest).toMatchObject({ method: 'overlay', deletedFiles: 0, warnings: [] });
  expect(links).toBe(1);
  expect(readdirSync(join(rootfs, 'data')).sort((a, b) => a.localeCompare(b))).toEqual([
    'kept',
    'link_remap.3',
    'other',
    'third',
  ]);
  const inodes = ['kept', 'third', 'link_remap.3'].map((name) => statSync(join(rootfs, 'data', name)).ino);
  expect(new Set(inodes).size).toBe(1);
});

test('links that exist during the diff are left to the post-dump moment', async () => {
  writeFileSync(join(upper, 'data/link_remap.1'), 'x');

  await captureRootfs(deps, facts(), checkpoint, op);
  await applyRootfs(rootfs, checkpoint, runExeca);

  expect(readdirSync(join(rootfs, 'data'))).toEqual([]);
});

test('what goes or changes while it is read is a warning, and all else is there', async () => {
  writeFileSync(join(upper, 'data/kept'), 'kept');
  writeFileSync(join(upper, 'data/went'), 'went');
  const run: typeof runExeca = (file, args, options) => {
    rmSync(join(upper, 'data/went'));
    return runExeca(file, args, options);
  };

  const { warnings } = await captureRootfs({ ...deps, run }, facts(), checkpoint, op);
  await applyRootfs(rootfs, checkpoint, runExeca);

  expect(warnings).toEqual([expect.stringMatching(/^1 files of the root were changed.*data\/went: Cannot stat/)]);
  expect(readdirSync(join(rootfs, 'data'))).toEqual(['kept']);
});

test('a tar that fails for another reason fails the dump', async () => {
  writeFileSync(join(upper, 'data/kept'), 'kept');
  const run: typeof runExeca = (file, args, options) => runExeca(file, [...args, '--no-such-option'], options);

  await expect(captureRootfs({ ...deps, run }, facts(), checkpoint, op)).rejects.toMatchObject({ type: 'DumpFailed' });
});

test('without links nothing is written', async () => {
  expect(await captureLinkRemap(deps, upper, checkpoint)).toBe(0);
  expect(readdirSync(join(checkpoint, 'fs'))).toEqual([]);
});

test('a root file system of the host is not captured, and a warning says so', async () => {
  const { upperDir: _none, ...rest } = facts();
  const record = { snapshotter: '', snapshotKey: '' } as ContainerFacts['record'];

  const capture = await captureRootfs(deps, { ...rest, record }, checkpoint, op);

  expect(capture).toMatchObject({ method: 'none', bytes: 0 });
  expect(capture.warnings).toEqual([expect.stringMatching(/not captured/)]);
});

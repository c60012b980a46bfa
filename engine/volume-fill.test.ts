/* Archives of directories that others may change meanwhile, as root: taken, put elsewhere and taken back. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runSpawn } from '../native/run/run-spawn.ts';
import type { OperationPlan } from './operation.ts';
import { captureVolumes } from './volume-capture.ts';
import { fillShared, type SharedDirectory, takeBack } from './volume-fill.ts';

let dir: string;
let source: string;
let tar: string;
let shared: SharedDirectory;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-volume-'));
  source = join(dir, 'source');
  tar = join(dir, 'checkpoint/fs/volume-0.tar');
  shared = { dir: join(dir, 'shared'), scratch: join(dir, 'scratch') };
  [join(source, 'below'), join(dir, 'checkpoint/fs'), shared.dir, join(dir, 'outside')].forEach((path) =>
    mkdirSync(path, { recursive: true }),
  );
  writeFileSync(join(source, 'below/file'), 'captured');
});
afterEach(() => rmSync(dir, { recursive: true }));

function capture(volumeLimitBytes?: number): Promise<readonly string[]> {
  const volumes = [{ name: 'cache', destination: '/cache', source, file: 'fs/volume-0.tar' }];
  const plan = {
    checkpointDir: join(dir, 'checkpoint'),
    analysis: { volumes },
    settings: volumeLimitBytes === undefined ? {} : { volumeLimitBytes },
  } as unknown as OperationPlan;
  return captureVolumes(runSpawn, plan, { signal: new AbortController().signal });
}

test('a volume comes back with its names, its links and its own permissions, over what has the same name', async () => {
  symlinkSync('/etc/hostname', join(source, 'link'));
  mkdirSync(join(shared.dir, 'below'), { mode: 0o700 });
  writeFileSync(join(shared.dir, 'below/file'), 'of an init container');
  writeFileSync(join(shared.dir, 'below/other'), 'kept');
  chmodSync(source, 0o2770);

  expect(await capture()).toEqual([]);
  await fillShared(runSpawn, shared, tar);

  expect(readFileSync(join(shared.dir, 'below/file'), 'utf8')).toBe('captured');
  expect(readFileSync(join(shared.dir, 'below/other'), 'utf8')).toBe('kept');
  expect(readlinkSync(join(shared.dir, 'link'))).toBe('/etc/hostname');
  expect(statSync(shared.dir).mode & 0o7777).toBe(0o2770);
  expect(existsSync(shared.scratch)).toBe(false);
});

test('a link that another container puts in the place of a directory leads nowhere, at the dump and at the restore', async () => {
  const secret = join(dir, 'outside/secret');
  writeFileSync(secret, 'of the node');
  symlinkSync(join(dir, 'outside'), join(source, 'sly'));
  await capture();
  expect((await runSpawn('tar', ['-tf', tar])).stdout).not.toContain('secret');
  // tar would replace a link by a directory of its archive; without one it goes through, as if the link had come a moment later
  writeFileSync(join(source, 'below/secret'), 'captured');
  await runSpawn('tar', ['-cf', tar, '-C', source, 'below/secret']);
  symlinkSync(join(dir, 'outside'), join(shared.dir, 'below'));

  await expect(fillShared(runSpawn, shared, tar)).rejects.toMatchObject({ type: 'RestoreFailed' });
  await expect(takeBack(runSpawn, shared, tar)).rejects.toMatchObject({ type: 'RestoreFailed' });

  expect(readFileSync(secret, 'utf8')).toBe('of the node');
});

test('what was put there is taken back, and what has come since stays', async () => {
  await capture();
  await fillShared(runSpawn, shared, tar);
  writeFileSync(join(shared.dir, 'since'), '');

  await takeBack(runSpawn, shared, tar);
  expect(readdirSync(shared.dir)).toEqual(['since']);

  // An attempt that was killed before it had put anything there has nothing to take back.
  await takeBack(runSpawn, shared, tar);
  expect(readdirSync(shared.dir)).toEqual(['since']);
});

test('a volume that has grown beyond the limit since it was measured ends the capture', async () => {
  writeFileSync(join(source, 'large'), Buffer.alloc(256 * 1024, 1));

  await expect(capture(64 * 1024)).rejects.toMatchObject({
    type: 'DumpFailed',
    message: expect.stringContaining('the volume cache has grown') as string,
  });
});

test('a volume that is gone is told by name', async () => {
  rmSync(source, { recursive: true });

  await expect(capture()).rejects.toMatchObject({ message: expect.stringContaining(source) as string });
});

import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Manifest } from '../core/checkpoint/manifest.ts';
import { makeCheckpoint, sampleFiles, testOp } from '../test/harness/checkpoint-dir.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import type { Fetched } from './fetch.ts';
import { publishManifest } from './publish.ts';
import { refetchCheckpoint } from './refetch.ts';
import { uploadCheckpoint } from './upload.ts';
import { verifyLocal } from './verify.ts';

let root = '';
let dest = '';
let backend: Backend;
let manifest: Manifest;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-refetch-'));
  dest = join(root, 'node/checkpoint-ck-1');
  backend = await openLocalBackend(join(root, 'store'));
  manifest = await makeCheckpoint(dest, 'ck-1');
  await uploadCheckpoint({ checkpointId: 'ck-1', dir: dest, manifest, backend, op: testOp() });
  await publishManifest({ checkpointId: 'ck-1', dir: dest, backend, op: testOp() });
});
afterEach(() => rm(root, { recursive: true, force: true }));

function refetch(mayReplace = true): Promise<Fetched> {
  const stagingDir = join(root, 'node/.fetch-1');
  const request = { checkpointId: 'ck-1', backend, destDir: dest, stagingDir, op: testOp() };
  return refetchCheckpoint({ ...request, mayReplace: () => mayReplace });
}

async function flip(file: string): Promise<void> {
  const bytes = await readFile(file);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
  await writeFile(file, bytes);
}

async function flipPack(): Promise<void> {
  const [pack = ''] = await readdir(join(root, 'store/packs'));
  await flip(join(root, 'store/packs', pack));
}

describe('refetchCheckpoint', () => {
  it('reads everything although a copy is there, and replaces a damaged one', async () => {
    await flip(join(dest, 'criu/pages-1.img'));

    const { bytes } = await refetch();

    expect(bytes).toBeGreaterThan(192 * 4096);
    await verifyLocal(dest, manifest, testOp());
    expect(await readdir(join(root, 'node'))).toEqual(['checkpoint-ck-1']);
  });

  it.each(['metadata.json', 'manifest.json'])('replaces a copy whose %s is no JSON', async (name) => {
    await writeFile(join(dest, name), 'x');

    await refetch();

    await verifyLocal(dest, manifest, testOp());
  });

  it('leaves the copy as it is when the store is damaged', async () => {
    await flipPack();

    await expect(refetch()).rejects.toMatchObject({ type: 'CheckpointCorrupt' });

    await verifyLocal(dest, manifest, testOp());
    expect(await readdir(join(root, 'node'))).toEqual(['checkpoint-ck-1']);
  });

  it('leaves a copy that others use when it is whole, and refuses a damaged one', async () => {
    await writeFile(join(dest, 'logs/new.log'), 'of the old copy');

    expect((await refetch(false)).bytes).toBeGreaterThan(0);

    expect(await readdir(join(dest, 'logs'))).toContain('new.log');
    await flip(join(dest, 'criu/pages-1.img'));
    await expect(refetch(false)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it('never replaces another checkpoint of the same id', async () => {
    await rm(dest, { recursive: true });
    const other = await makeCheckpoint(dest, 'ck-1', sampleFiles('other'));

    await expect(refetch()).rejects.toMatchObject({ type: 'InvalidInput' });

    await verifyLocal(dest, other, testOp());
  });
});

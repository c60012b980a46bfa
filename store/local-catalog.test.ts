import { mkdtemp, readdir, rm, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeCheckpoint, testOp, writeFiles } from '../test/harness/checkpoint-dir.ts';
import { localCatalog } from './local-catalog.ts';
import { verifyLocal } from './verify.ts';

let root = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-local-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

describe('localCatalog', () => {
  it('lists committed checkpoints in order, with their pending uploads, and nothing half-made', async () => {
    await makeCheckpoint(join(root, 'checkpoint-b'), 'b');
    await makeCheckpoint(join(root, 'checkpoint-a'), 'a');
    await unlink(join(root, 'checkpoint-a/upload.pending'));
    await writeFiles(root, {
      'checkpoint-half/criu/core-1.img': 'x',
      'something/metadata.json': '{}',
      'checkpoint-': '',
      'checkpoint-file': '',
    });
    await writeFiles(root, { 'checkpoint-c/metadata.json': '{}', 'checkpoint-..x/metadata.json': '{}' });

    const list = await localCatalog(root).list();

    expect(list.checkpoints).toMatchObject([
      { checkpointId: 'a', path: join(root, 'checkpoint-a'), uploadPending: false, metadata: { checkpointId: 'a' } },
      { checkpointId: 'b', uploadPending: true },
    ]);
    expect(list.damaged.map(({ checkpointId }) => checkpointId)).toEqual(['c']);
  });

  it('lists nothing when there is no directory', async () => {
    expect(await localCatalog(join(root, 'none')).list()).toEqual({ checkpoints: [], damaged: [] });
  });

  it('gives a checkpoint and its manifest', async () => {
    const made = await makeCheckpoint(join(root, 'checkpoint-a'), 'a');
    const catalog = localCatalog(root);

    const { path, metadata } = await catalog.get('a');

    expect(metadata.merkleRoot).toBe(made.merkleRoot);
    await verifyLocal(path, await catalog.manifest('a'), testOp());
  });

  it('says CheckpointNotFound of what is half-made or not there, CheckpointCorrupt of a foreign one', async () => {
    await makeCheckpoint(join(root, 'checkpoint-a'), 'b');
    await writeFiles(root, { 'checkpoint-half/criu/core-1.img': 'x' });
    const catalog = localCatalog(root);

    await expect(catalog.get('half')).rejects.toMatchObject({ type: 'CheckpointNotFound' });
    await expect(catalog.get('none')).rejects.toMatchObject({ type: 'CheckpointNotFound' });
    await expect(catalog.manifest('none')).rejects.toMatchObject({ type: 'CheckpointNotFound' });
    await expect(catalog.get('a')).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    await expect(catalog.get('../a')).rejects.toMatchObject({ type: 'InvalidInput' });
  });

  it('removes checkpoints, also half-made ones, and says when there was none', async () => {
    await makeCheckpoint(join(root, 'checkpoint-a'), 'a');
    await writeFiles(root, { 'checkpoint-half/criu/core-1.img': 'x' });
    const catalog = localCatalog(root);

    await catalog.remove('a');
    await catalog.remove('half');

    expect(await readdir(root)).toEqual([]);
    await expect(catalog.remove('a')).rejects.toMatchObject({ type: 'CheckpointNotFound' });
    await expect(catalog.remove('../etc')).rejects.toMatchObject({ type: 'InvalidInput' });
  });

  it('reports a damaged manifest by its path', async () => {
    await makeCheckpoint(join(root, 'checkpoint-a'), 'a');
    await writeFile(join(root, 'checkpoint-a/manifest.json'), '{');

    await expect(localCatalog(root).manifest('a')).rejects.toThrow(join(root, 'checkpoint-a/manifest.json'));
  });
});

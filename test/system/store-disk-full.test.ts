/* A disk without room: a tmpfs of 8 MiB as the node's disk and as the store. */
import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Manifest } from '../../core/checkpoint/manifest.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import { listStored } from '../../store/registry.ts';
import { fetchCheckpoint } from '../../store/fetch.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import { publishManifest } from '../../store/publish.ts';
import { openTier } from '../../store/tiers/open.ts';
import { TieredBackend } from '../../store/tiers/tiered.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { verifyRemote } from '../../store/verify.ts';
import { watch } from '../harness/backends.ts';
import { makeCheckpoint, noise, testOp } from '../harness/checkpoint-dir.ts';

describe('a full disk', () => {
  let root: string;
  let small: string;
  let dir: string;
  let manifest: Manifest;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'kybernate-full-'));
    small = await mkdtemp(join(tmpdir(), 'kybernate-small-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', small]);
    dir = join(root, 'checkpoint-ck-1');
    manifest = await makeCheckpoint(dir, 'ck-1', { 'criu/a.img': noise(12_000_000, 'a') });
  });
  afterEach(async () => {
    execFileSync('umount', [small]);
    await rm(small, { recursive: true, force: true });
    await rm(root, { recursive: true, force: true });
  });

  it('of a tier costs neither an upload nor a read its success, and leaves nothing half there', async () => {
    const tierDir = join(small, 'nvme');
    const tier = await openTier({ name: 'nvme', dir: tierDir, budgetBytes: 2 ** 30 }, testOp().log);
    const store = await openLocalBackend(join(root, 'store'));
    const op = testOp();
    const backend = new TieredBackend({ store, tiers: [tier], peers: [], log: op.log });

    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp(), packBytes: 2_000_000 });
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    const { bytes } = await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() });
    await backend.close();

    expect(bytes).toBeGreaterThan(12_000_000);
    expect(tier.state().usedBytes).toBeGreaterThan(1_000_000);
    expect(tier.state().usedBytes).toBeLessThan(8_000_000);
    expect(await readdir(join(tierDir, '.tmp'))).toEqual([]);
  });

  it('is DiskFull in an upload to a directory; nothing is listed, and room makes it go on', async () => {
    const backend = await openLocalBackend(join(small, 'store'));
    const request = { checkpointId: 'ck-1', dir, manifest, backend, op: testOp(), packBytes: 2_000_000 };

    await expect(uploadCheckpoint(request)).rejects.toMatchObject({ type: 'DiskFull' });

    expect(await readdir(join(small, 'store/.tmp'))).toEqual([]);
    execFileSync('mount', ['-o', 'remount,size=32m', small]);
    const watched = watch(backend);
    await uploadCheckpoint({ ...request, backend: watched });
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    const sent = watched.calls.filter(({ name, key }) => name === 'put' && key.startsWith('packs/'));
    expect(sent.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThan(10_000_000);
    expect((await listStored(backend, testOp())).checkpoints).toHaveLength(1);
  });

  it('is DiskFull in a fetch before the first byte, and the directory is not there', async () => {
    const backend = await openLocalBackend(join(root, 'store'));
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    const watched = watch(backend);
    const destDir = join(small, 'checkpoint-ck-1');

    const fetched = fetchCheckpoint({ checkpointId: 'ck-1', backend: watched, destDir, op: testOp() });

    await expect(fetched).rejects.toMatchObject({ type: 'DiskFull' });
    expect(watched.calls.filter(({ key }) => key.startsWith('packs/'))).toEqual([]);
    expect(await readdir(small)).toEqual([]);
  });

  it('is DiskFull in a fetch when the room goes meanwhile, and nothing half-made is left', async () => {
    const backend = await openLocalBackend(join(root, 'store'));
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    execFileSync('mount', ['-o', 'remount,size=64m', small]);
    const shrinking = watch(backend, async ({ key }, proceed) => {
      if (key.startsWith('packs/')) {
        execFileSync('mount', ['-o', 'remount,size=4m', small]);
      }
      return proceed();
    });
    const destDir = join(small, 'checkpoint-ck-1');

    const fetched = fetchCheckpoint({ checkpointId: 'ck-1', backend: shrinking, destDir, op: testOp() });

    await expect(fetched).rejects.toMatchObject({ type: 'DiskFull' });
    expect(await readdir(small)).toEqual([]);
    expect((await localCatalog(small).list()).checkpoints).toEqual([]);
  });
});

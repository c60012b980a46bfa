import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { METADATA_FILE } from '../core/checkpoint/file-names.ts';
import type { Manifest } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import { watch } from '../test/harness/backends.ts';
import { makeCheckpoint, sampleFiles, sampleMetadata, testOp } from '../test/harness/checkpoint-dir.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import { getManifest } from './catalog.ts';
import { packKey } from './keys.ts';
import { publishManifest, removePendingMark } from './publish.ts';
import { listStored } from './registry.ts';
import { uploadCheckpoint } from './upload.ts';
import { verifyRemote } from './verify.ts';

let root = '';
let dir = '';
let backend: Backend;
let manifest: Manifest;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-publish-'));
  dir = join(root, 'checkpoint-ck-1');
  backend = await openLocalBackend(join(root, 'store'));
  manifest = await makeCheckpoint(dir, 'ck-1');
});
afterEach(async () => {
  vi.useRealTimers();
  await rm(root, { recursive: true, force: true });
});

describe('publishManifest', () => {
  it('makes the checkpoint visible, removes ledger and lease, and leaves the mark on the node to root', async () => {
    const { packs } = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    expect((await listStored(backend, testOp())).checkpoints).toEqual([]);

    const published = await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });

    expect(published).toEqual({ remote: `${backend.url}/checkpoints/ck-1/manifest.json`, created: true });
    const remote = await getManifest(backend, 'ck-1');
    expect(remote.manifest).toMatchObject({ merkleRoot: manifest.merkleRoot, packs, totalBytes: manifest.totalBytes });
    expect(remote.metadata).toEqual(sampleMetadata('ck-1', manifest));
    expect((await readdir(dir)).filter((name) => name.startsWith('upload'))).toEqual(['upload.pending']);
    expect(await readdir(join(root, 'store/leases'))).toEqual([]);
  });

  it('succeeds again when the same checkpoint is there', async () => {
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });

    const again = await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });

    expect(again.created).toBe(false);
  });

  it('succeeds when the reply to its own manifest was lost', async () => {
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    const repeating = watch(backend);
    // what the SDK does after a lost reply: the second try finds the first one's object
    repeating.putIfAbsent = async (key, bytes) => {
      await backend.putIfAbsent(key, bytes);
      return backend.putIfAbsent(key, bytes);
    };

    expect(await publishManifest({ checkpointId: 'ck-1', dir, backend: repeating, op: testOp() })).toMatchObject({
      created: false,
    });
  });

  it('looks again when it stood still between its look and the manifest', async () => {
    const { packs } = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    vi.useFakeTimers({ toFake: ['Date'] });
    let stood = false;
    const slow = watch(backend, async ({ name, key }, proceed) => {
      await proceed();
      if (!stood && name === 'head' && key.startsWith('packs/')) {
        stood = true;
        vi.setSystemTime(Date.now() + 40 * 60_000);
        // What a collection does meanwhile, which no longer sees the lease.
        await backend.delete(packKey(packs[0]?.[0] ?? ''));
      }
    });

    const { created } = await publishManifest({ checkpointId: 'ck-1', dir, backend: slow, op: testOp() });

    expect({ stood, created }).toEqual({ stood: true, created: true });
    await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() });
  });

  it.each(['leases/upload-ck-1.json', 'checkpoints/ck-1/files-'])(
    'writes %s again when it was taken away',
    async (name) => {
      await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
      let taken = 0;
      const watched = watch(backend, async (call, proceed) => {
        if (call.name === 'head' && call.key.startsWith(name) && taken === 0) {
          taken += 1;
          await backend.delete(call.key);
        }
        return proceed();
      });

      await publishManifest({ checkpointId: 'ck-1', dir, backend: watched, op: testOp() });

      expect(taken).toBe(1);
      await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() });
    },
  );

  it('refuses to replace another checkpoint of the same id', async () => {
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    const other = join(root, 'other');
    const otherManifest = await makeCheckpoint(other, 'ck-1', sampleFiles('other'));
    await uploadCheckpoint({ checkpointId: 'ck-1', dir: other, manifest: otherManifest, backend, op: testOp() });

    const publication = publishManifest({ checkpointId: 'ck-1', dir: other, backend, op: testOp() });

    await expect(publication).rejects.toMatchObject({ type: 'InvalidInput' });
    expect((await getManifest(backend, 'ck-1')).manifest.merkleRoot).toBe(manifest.merkleRoot);
    expect(await readdir(other)).toContain('upload.pending');
  });

  it.each([
    ['deleted', async (pack: string) => backend.delete(`packs/${pack}`)],
    ['condemned', async (pack: string) => backend.put('condemned/x.json', Buffer.from(`{"packs":["${pack}"]}`))],
  ])('sends a pack again that was %s since the upload', async (_, spoil) => {
    const { packs } = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    await spoil(packs[0]?.[0] ?? '');

    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });

    const remote = await getManifest(backend, 'ck-1');
    expect(remote.manifest.packs).not.toEqual(packs);
    for (const [id, bytes] of remote.manifest.packs) {
      expect((await backend.head(`packs/${id}`))?.bytes).toBe(bytes);
    }
  });

  it('uploads first when that was not done', async () => {
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });

    expect((await getManifest(backend, 'ck-1')).manifest.packs).toHaveLength(1);
  });

  it('publishes nothing when metadata and manifest are not of one checkpoint', async () => {
    const foreign = { ...sampleMetadata('ck-1', manifest), merkleRoot: 'b'.repeat(64) };
    await writeFile(join(dir, METADATA_FILE), JSON.stringify(foreign));

    await expect(publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() })).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
    });
    expect((await listStored(backend, testOp())).checkpoints).toEqual([]);
  });

  it('keeps the ledger where it is told to, and writes nothing into the checkpoint', async () => {
    const ledgerPath = join(root, 'ck-1.ledger');
    const before = await readdir(dir);
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp(), ledgerPath });
    expect(await readdir(root)).toContain('ck-1.ledger');
    const watched = watch(backend);

    await publishManifest({ checkpointId: 'ck-1', dir, backend: watched, op: testOp(), ledgerPath });

    expect(watched.calls.filter(({ name, key }) => name === 'put' && key.startsWith('packs/'))).toEqual([]);
    expect(await readdir(root)).not.toContain('ck-1.ledger');
    expect(await readdir(dir)).toEqual(before);
  });

  it('leaves the mark on the node when the store fails', async () => {
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    const failing = watch(backend, async ({ name }, proceed) => {
      if (name === 'putIfAbsent') {
        throw new KybernateError('StorageUnavailable', 'lost by the test');
      }
      return proceed();
    });

    const publication = publishManifest({ checkpointId: 'ck-1', dir, backend: failing, op: testOp() });

    await expect(publication).rejects.toMatchObject({ type: 'StorageUnavailable' });
    expect(await readdir(dir)).toEqual(expect.arrayContaining(['upload.pending', 'upload.ledger']));
  });
});

describe('removePendingMark', () => {
  it('makes a pending checkpoint one that is not, again and again', async () => {
    await removePendingMark(dir);
    await removePendingMark(dir);

    expect(await readdir(dir)).not.toContain('upload.pending');
    expect(await readdir(dir)).toContain(METADATA_FILE);
  });

  it('finds nothing to do where there is no directory', async () => {
    await removePendingMark(join(root, 'checkpoint-gone'));
  });
});

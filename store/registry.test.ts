import { mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import { watch } from '../test/harness/backends.ts';
import { sampleMetadata, testOp } from '../test/harness/checkpoint-dir.ts';
import { putManifest } from '../test/harness/manifests.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import { getManifest } from './catalog.ts';
import { listStored } from './registry.ts';
import { removeCheckpoint } from './remove.ts';
import { noteReadback } from './verified.ts';
import { verifyRemote } from './verify.ts';

const NUMBER = 100;

let root = '';
let backend: Backend;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-registry-'));
  backend = await openLocalBackend(join(root, 'store'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const idOf = (index: number): string => `ck-${String(index).padStart(3, '0')}`;
const packOf = (index: number): [string, number] => [index.toString(16).padStart(32, '0'), 1000 + index];

/** Published a while ago, so that no two could be taken for one another. */
async function put(id: string, packs: Array<[string, number]>, minutesAgo = 10): Promise<void> {
  await putManifest(backend, id, packs);
  const time = new Date(Date.now() - minutesAgo * 60_000);
  await utimes(join(root, 'store/checkpoints', id, 'manifest.json'), time, time);
}

async function fill(): Promise<void> {
  for (let index = 0; index < NUMBER; index += 1) {
    // Each has a pack of its own, and one that it shares with its neighbour.
    await put(idOf(index), [packOf(index), packOf(1000 + Math.floor(index / 2))]);
  }
  await put('newest', [packOf(5000)], 0);
}

describe('listStored', () => {
  it('tells of each checkpoint what a list shows, with the size that only it holds', async () => {
    await fill();

    const { checkpoints, damaged } = await listStored(backend, testOp());

    expect(damaged).toEqual([]);
    expect(checkpoints.map(({ checkpointId }) => checkpointId)).toEqual([
      ...Array.from({ length: NUMBER }, (_, index) => idOf(index)),
      'newest',
    ]);
    const { manifest } = await getManifest(backend, idOf(3));
    const { createdAt, labels } = sampleMetadata(idOf(3), manifest);
    expect(checkpoints[3]).toEqual({
      checkpointId: idOf(3),
      summary: {
        createdAt,
        labels,
        container: { id: 'source', namespace: 'default' },
        node: { name: 'node-a' },
        sizes: { totalBytes: manifest.totalBytes },
      },
      merkleRoot: manifest.merkleRoot,
      publishedAt: manifest.publishedAt,
      storedBytes: 1003 + 2001,
      uniqueBytes: 1003,
      remote: `${backend.url}/checkpoints/${idOf(3)}/manifest.json`,
    });
  });

  it('reads each manifest once: the next list reads what is new or too young to tell', async () => {
    await fill();
    const first = await listStored(backend, testOp());
    const watched = watch(backend);

    const second = await listStored(watched, testOp());

    expect(first.read).toBe(NUMBER + 1);
    expect(second).toEqual({ ...first, read: 1 });
    expect(watched.calls.map(({ name, key }) => `${name} ${key}`)).toEqual([
      'get registry/checkpoints.zst',
      'list checkpoints/',
      'get checkpoints/newest/manifest.json',
    ]);
  });

  it('shows what was removed, published anew or added since the registry was written', async () => {
    await fill();
    await listStored(backend, testOp());
    await removeCheckpoint(backend, idOf(1), testOp());
    await removeCheckpoint(backend, idOf(2), testOp());
    await put(idOf(2), [packOf(7000)], 5);
    await put('added', [packOf(7001)], 5);

    const { checkpoints, read } = await listStored(backend, testOp());

    expect(read).toBe(3);
    expect(checkpoints).toEqual((await listStored(backend, testOp(), { registry: 'never' })).checkpoints);
    expect(checkpoints.find(({ checkpointId }) => checkpointId === idOf(2))?.storedBytes).toBe(8000);
    // Nobody shares this one's second pack any more.
    expect(checkpoints.find(({ checkpointId }) => checkpointId === idOf(0))?.uniqueBytes).toBe(1000 + 2000);
  });

  it.each<[string, (file: string) => Promise<void>]>([
    ['is missing', (file) => rm(file)],
    ['is no registry', (file) => writeFile(file, 'x')],
  ])('lists the same when the registry %s, and writes it anew', async (_, damage) => {
    await fill();
    const whole = await listStored(backend, testOp());
    await damage(join(root, 'store/registry/checkpoints.zst'));

    expect(await listStored(backend, testOp())).toEqual(whole);

    expect((await listStored(backend, testOp())).read).toBe(1);
  });

  it('lists where the registry can be neither read nor written', async () => {
    await fill();
    const refusing = watch(backend, async ({ key }, proceed) => {
      if (key.startsWith('registry/')) {
        throw new KybernateError('StorageDenied', 'refused by the test');
      }
      return proceed();
    });

    expect((await listStored(refusing, testOp())).checkpoints).toHaveLength(NUMBER + 1);
  });

  it('fails with StorageDenied of a manifest: what cannot be read is not absent', async () => {
    await fill();
    const refusing = watch(backend, async ({ key }, proceed) => {
      if (key === `checkpoints/${idOf(7)}/manifest.json`) {
        throw new KybernateError('StorageDenied', 'refused by the test');
      }
      return proceed();
    });

    await expect(listStored(refusing, testOp())).rejects.toMatchObject({ type: 'StorageDenied' });
  });

  it('names what is damaged, and lists the rest', async () => {
    await put('a', [packOf(1)]);
    await backend.put('checkpoints/b/manifest.json', Buffer.from('{'));

    expect(await listStored(backend, testOp())).toMatchObject({
      checkpoints: [{ checkpointId: 'a' }],
      damaged: [{ checkpointId: 'b' }],
    });
  });

  it('forgets that a checkpoint was verified when it is found damaged', async () => {
    await put('a', [packOf(1)]);
    const { merkleRoot } = (await getManifest(backend, 'a')).manifest;
    await noteReadback(backend, { checkpointId: 'a', digest: merkleRoot, whole: true }, testOp());
    await expect(verifyRemote({ checkpointId: 'a', backend, op: testOp() })).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
    });

    expect((await listStored(backend, testOp())).checkpoints[0]?.verifiedAt).toBeUndefined();
  });

  it('tells when a checkpoint was verified, and not by the mark of another of the same id', async () => {
    await put('a', [packOf(1)]);
    await put('b', [packOf(2)]);
    const { merkleRoot } = (await getManifest(backend, 'a')).manifest;
    await noteReadback(backend, { checkpointId: 'a', digest: merkleRoot, whole: true }, testOp());
    await noteReadback(backend, { checkpointId: 'b', digest: 'ef'.repeat(32), whole: true }, testOp());

    const { checkpoints } = await listStored(backend, testOp());

    expect(checkpoints.map(({ verifiedAt }) => verifiedAt !== undefined)).toEqual([true, false]);
  });
});

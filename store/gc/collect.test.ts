import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { KybernateError } from '../../core/errors.ts';
import { watch } from '../../test/harness/backends.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../../test/harness/checkpoint-dir.ts';
import { collect } from '../../test/harness/collect.ts';
import type { Backend } from '../backend/backend.ts';
import { openLocalBackend } from '../backend/local.ts';
import { getManifest } from '../catalog.ts';
import { writeCondemned } from '../condemned.ts';
import { acquireLease } from '../lease.ts';
import { publishManifest } from '../publish.ts';
import { uploadCheckpoint } from '../upload.ts';
import { verifyRemote } from '../verify.ts';
import { condemnGarbage, confirmGarbage, deleteGarbage, forgetCollection } from './collect.ts';

const HOUR_MS = 3_600_000;
const PACK = 'ab'.repeat(16);

let root = '';
let backend: Backend;
beforeEach(async () => {
  // The clock of the collection; that of the directory stays the real one.
  vi.useFakeTimers({ toFake: ['Date', 'setInterval', 'clearInterval'] });
  root = await mkdtemp(join(tmpdir(), 'kybernate-gc-'));
  backend = await openLocalBackend(join(root, 'store'));
});
afterEach(async () => {
  vi.useRealTimers();
  await rm(root, { recursive: true, force: true });
});

async function later(hours: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(hours * HOUR_MS);
}

async function upload(checkpointId: string, files = sampleFiles(), to: Backend = backend): Promise<string> {
  const dir = join(root, checkpointId);
  const manifest = await makeCheckpoint(dir, checkpointId, files);
  await uploadCheckpoint({ checkpointId, dir, manifest, backend: to, op: testOp() });
  return dir;
}

async function store(checkpointId: string, files = sampleFiles(), to: Backend = backend): Promise<void> {
  const dir = await upload(checkpointId, files, to);
  await publishManifest({ checkpointId, dir, backend: to, op: testOp() });
}

async function keys(prefix = ''): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of backend.list(prefix)) {
    found.push(key);
  }
  return found;
}

/** Only the manifest, as a removal that was cut off leaves it. */
async function hide(checkpointId: string): Promise<void> {
  await backend.delete(`checkpoints/${checkpointId}/manifest.json`);
}

function collection(id = 'x', of: Backend = backend): Parameters<typeof condemnGarbage>[0] {
  return { backend: of, collectionId: id, op: testOp() };
}

describe('a collection', () => {
  it('deletes what no manifest names, with its indexes, marks and file lists, and nothing else', async () => {
    await store('ck-1', { 'criu/a.img': noise(5000, 'a') });
    await store('ck-2', { 'criu/b.img': noise(5000, 'b') });
    const kept = (await getManifest(backend, 'ck-2')).manifest.packs.map(([id]) => id);
    const gone = (await getManifest(backend, 'ck-1')).manifest.packs;
    await backend.put(`damaged/${gone[0]?.[0] ?? ''}`, Buffer.from('{}'));
    await hide('ck-1');
    await later(1);

    const { condemned, confirmed } = await collect(backend, 'x', testOp());

    const sum = { packs: 1, bytes: gone[0]?.[1] };
    expect(condemned).toMatchObject({ checkpoints: 1, garbage: sum, objects: 1, more: false });
    expect(confirmed).toMatchObject({ confirmed: sum, kept: { packs: 0 }, objects: 1 });
    expect(await keys('packs/')).toEqual(kept.map((id) => `packs/${id}`));
    expect(await keys('index/')).toEqual(kept.map((id) => `index/${id}`));
    expect([...(await keys('damaged/')), ...(await keys('condemned/')), ...(await keys('leases/'))]).toEqual([]);
    expect(await keys('checkpoints/')).toHaveLength(2);
    await verifyRemote({ checkpointId: 'ck-2', backend, op: testOp() });
  });

  it('that is a dry run tells what would go, and changes nothing', async () => {
    await store('ck-1');
    await hide('ck-1');
    await later(1);
    const before = await keys();
    const watched = watch(backend);

    const found = await condemnGarbage(collection('x', watched), true);

    expect(found).toMatchObject({ garbage: { packs: 1 }, objects: 1, lists: 0 });
    expect(watched.calls.filter(({ name }) => name !== 'get' && name !== 'list')).toEqual([]);
    expect(await keys()).toEqual(before);
  });

  it('keeps the packs of an upload that was cut off as long as its lease lasts', async () => {
    await upload('ck-1');
    await later(0.5);
    expect((await collect(backend, 'x', testOp())).condemned).toMatchObject({
      garbage: { packs: 0 },
      young: { packs: 1 },
    });

    await later(1);
    await collect(backend, 'y', testOp());

    expect(await keys()).toEqual([]);
  });

  it('waits for an upload that has looked before the lists were written', async () => {
    await store('ck-1');
    await hide('ck-1');
    await later(1);
    const seen: unknown[] = [];
    let listId = '';
    const meeting = watch(backend, async ({ name, key }, proceed) => {
      if (name === 'putIfAbsent' && key.startsWith('checkpoints/')) {
        listId = (await condemnGarbage(collection())).listId ?? '';
        seen.push(await confirmGarbage(collection(), listId, 1));
      }
      return proceed();
    });

    await store('ck-2', sampleFiles(), meeting);
    const after = await confirmGarbage(collection(), listId, 1);

    expect(seen).toMatchObject([{ waitingFor: ['upload-ck-2'], confirmed: { packs: 0 } }]);
    expect(after).toMatchObject({ waitingFor: [], confirmed: { packs: 0 }, kept: { packs: 1 } });
    await deleteGarbage(collection(), listId, 0);
    await verifyRemote({ checkpointId: 'ck-2', backend, op: testOp() });
  });

  it('lets an upload that comes later store its own, and deletes all the same', async () => {
    await store('ck-1');
    const [old] = (await getManifest(backend, 'ck-1')).manifest.packs;
    await hide('ck-1');
    await later(1);
    const { listId = '', lists } = await condemnGarbage(collection());

    await store('ck-2');
    await confirmGarbage(collection(), listId, lists);
    await deleteGarbage(collection(), listId, 0);

    expect((await getManifest(backend, 'ck-2')).manifest.packs).not.toContainEqual(old);
    expect(await keys('packs/')).toHaveLength(1);
    await verifyRemote({ checkpointId: 'ck-2', backend, op: testOp() });
  });

  it('waits for whoever still reads a checkpoint that was removed', async () => {
    await store('ck-1');
    await later(0.1);
    const lease = await acquireLease(backend, { id: 'read-ck-1-x', purpose: 'read', checkpointId: 'ck-1' }, testOp());
    await hide('ck-1');
    await later(1);
    const { listId = '', lists } = await condemnGarbage(collection());
    expect(await confirmGarbage(collection(), listId, lists)).toMatchObject({ waitingFor: ['read-ck-1-x'] });

    await lease.release();

    expect(await confirmGarbage(collection(), listId, lists)).toMatchObject({ confirmed: { packs: 1 } });
  });

  it('is not held up by whoever reads a checkpoint that is there', async () => {
    await store('ck-1', { 'criu/a.img': noise(5000, 'a') });
    await store('ck-2', { 'criu/b.img': noise(5000, 'b') });
    await hide('ck-1');
    await later(1);
    const lease = await acquireLease(backend, { id: 'read-ck-2-x', purpose: 'read', checkpointId: 'ck-2' }, testOp());

    const { confirmed } = await collect(backend, 'x', testOp());

    expect(confirmed).toMatchObject({ confirmed: { packs: 1 } });
    await lease.release();
  });

  it.each(['{', '{"version":99}'])('does not begin while a manifest reads %s: it could name any pack', async (text) => {
    await store('ck-1');
    await hide('ck-1');
    await backend.put('checkpoints/ck-2/manifest.json', Buffer.from(text));
    await later(1);

    await expect(collect(backend, 'x', testOp())).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringContaining('(ck-2)') as string,
    });

    expect(await keys('packs/')).toHaveLength(1);
    expect(await keys('condemned/')).toEqual([]);
  });

  it.each(['StorageDenied', 'StorageUnavailable'] as const)('ends with %s of a single manifest', async (type) => {
    await store('ck-1');
    await store('ck-2', { 'criu/b.img': noise(5000, 'b') });
    await hide('ck-1');
    await later(1);
    const failing = watch(backend, async ({ key }, proceed) => {
      if (key === 'checkpoints/ck-2/manifest.json') {
        throw new KybernateError(type, 'refused by the test');
      }
      return proceed();
    });

    await expect(collect(failing, 'x', testOp())).rejects.toMatchObject({ type });

    expect(await keys('packs/')).toHaveLength(2);
  });

  it('deletes nothing that was not confirmed, and nothing when its lists have run out', async () => {
    await store('ck-1');
    await hide('ck-1');
    await later(1);
    const { listId = '', lists } = await condemnGarbage(collection());

    await expect(deleteGarbage(collection(), listId, 0)).rejects.toMatchObject({ type: 'Internal' });
    await later(26);
    expect(await confirmGarbage(collection(), listId, lists)).toMatchObject({ expired: true });

    expect(await keys('packs/')).toHaveLength(1);
  });

  it('stops deleting when the time of a confirmed list is over', async () => {
    await store('ck-1');
    await hide('ck-1');
    await later(1);
    const { listId = '', lists } = await condemnGarbage(collection());
    await confirmGarbage(collection(), listId, lists);
    await later(2);

    await expect(deleteGarbage(collection(), listId, 0)).rejects.toMatchObject({ type: 'StorageUnavailable' });

    expect(await keys('packs/')).toHaveLength(1);
  });

  it('is done by two at once as by one', async () => {
    await store('ck-1');
    await hide('ck-1');
    await later(1);

    const ends = await Promise.all(['x', 'y'].map((id) => collect(backend, id, testOp())));

    expect(ends.map(({ condemned }) => condemned.garbage.packs)).toEqual([1, 1]);
    expect(await keys()).toEqual([]);
  });

  it.each(['put condemned', 'delete condemned', 'delete packs', 'delete index', 'sweep '])(
    'that was cut off at "%s" is finished by the next one',
    async (point) => {
      await store('ck-1');
      await hide('ck-1');
      await later(1);
      const failing = watch(backend, async ({ name, key }, proceed) => {
        if (`${name} ${key.split('/')[0] ?? ''}` === point) {
          throw new KybernateError('StorageUnavailable', 'cut off by the test');
        }
        return proceed();
      });
      await expect(collect(failing, 'x', testOp())).rejects.toMatchObject({ type: 'StorageUnavailable' });

      await later(30);
      await collect(backend, 'y', testOp());

      expect(await keys()).toEqual([]);
    },
  );

  it('that is given up lifts the sentence', async () => {
    await store('ck-1');
    await hide('ck-1');
    await later(1);
    await condemnGarbage(collection());
    expect(await keys('condemned/')).toHaveLength(2);

    await forgetCollection(collection());
    await store('ck-2');

    expect(await keys('condemned/')).toEqual([]);
    expect(await keys('packs/')).toHaveLength(1);
  });

  it('takes away the lists of the dead, not those of the living', async () => {
    const list = { packs: [PACK], validUntil: new Date(Date.now() + HOUR_MS).toISOString() };
    await writeCondemned(backend, 'gc-dead', list, new AbortController().signal);
    await collect(backend, 'x', testOp());
    expect(await keys()).toEqual(['condemned/gc-dead.json']);

    await later(3);
    await collect(backend, 'x', testOp());

    expect(await keys()).toEqual([]);
  });

  it('does not take a file list from under a publication that finds it on a list', async () => {
    const dir = await upload('ck-1');
    const list = 'checkpoints/ck-1/files-';
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    await hide('ck-1');
    await later(2);
    const { listId = '', lists } = await condemnGarbage(collection());
    await confirmGarbage(collection(), listId, lists);

    const publication = publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });

    await expect(publication).rejects.toMatchObject({ type: 'StorageUnavailable' });
    await deleteGarbage(collection(), listId, 0);
    expect(await keys(list)).toEqual([]);
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() });
  });
});

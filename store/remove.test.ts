import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import { watch } from '../test/harness/backends.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../test/harness/checkpoint-dir.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import { getManifest } from './catalog.ts';
import { acquireLease, LEASE_MS } from './lease.ts';
import { publishManifest } from './publish.ts';
import { listStored } from './registry.ts';
import { removeCheckpoint } from './remove.ts';
import { uploadCheckpoint } from './upload.ts';
import { verifyRemote } from './verify.ts';

let root = '';
let backend: Backend;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-remove-'));
  backend = await openLocalBackend(join(root, 'store'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function store(checkpointId: string, files = sampleFiles()): Promise<void> {
  const dir = join(root, checkpointId);
  const manifest = await makeCheckpoint(dir, checkpointId, files);
  await uploadCheckpoint({ checkpointId, dir, manifest, backend, op: testOp() });
  await publishManifest({ checkpointId, dir, backend, op: testOp() });
}

async function keys(prefix = ''): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of backend.list(prefix)) {
    found.push(key);
  }
  return found;
}

describe('removeCheckpoint', () => {
  it('frees everything of a checkpoint that shares nothing', async () => {
    await store('ck-1');
    const { manifest } = await getManifest(backend, 'ck-1');

    const removed = await removeCheckpoint(backend, 'ck-1', testOp());

    expect(removed).toEqual({ freedBytes: manifest.packs[0]?.[1], keptPacks: 0 });
    expect(await keys()).toEqual([]);
  });

  it('keeps the packs that another checkpoint uses', async () => {
    await store('ck-1');
    await store('ck-2', { ...sampleFiles(), 'fs/more': noise(10_000, 'more') });

    expect(await removeCheckpoint(backend, 'ck-1', testOp())).toEqual({ freedBytes: 0, keptPacks: 1 });

    await verifyRemote({ checkpointId: 'ck-2', backend, op: testOp() });
    expect((await removeCheckpoint(backend, 'ck-2', testOp())).keptPacks).toBe(0);
    expect(await keys()).toEqual([]);
  });

  it.each([
    ['an upload', { id: 'upload-ck-9', purpose: 'upload', checkpointId: 'ck-9' } as const],
    ['a fetch of it', { id: 'read-ck-1-x', purpose: 'read', checkpointId: 'ck-1' } as const],
  ])('keeps all packs while %s goes on, and lifts the sentence', async (_, lease) => {
    await store('ck-1');
    const held = await acquireLease(backend, lease, testOp());

    expect(await removeCheckpoint(backend, 'ck-1', testOp())).toEqual({ freedBytes: 0, keptPacks: 1 });
    held.stop();

    expect(await keys('packs/')).toHaveLength(1);
    expect(await keys('condemned/')).toEqual([]);
    expect((await listStored(backend, testOp())).checkpoints).toEqual([]);
  });

  it.each([
    ['a fetch of another checkpoint', { purpose: 'read', checkpointId: 'ck-2', expiresAt: iso(LEASE_MS) }],
    ['an upload that died two hours ago', { purpose: 'upload', checkpointId: 'ck-2', expiresAt: iso(-LEASE_MS) }],
  ])('is not held up by %s', async (_, lease) => {
    await store('ck-1');
    await backend.put('leases/x.json', Buffer.from(JSON.stringify(lease)));

    expect((await removeCheckpoint(backend, 'ck-1', testOp())).keptPacks).toBe(0);
  });

  it('keeps all packs when a lease cannot be read', async () => {
    await store('ck-1');
    await backend.put('leases/x.json', Buffer.from('{'));

    expect((await removeCheckpoint(backend, 'ck-1', testOp())).keptPacks).toBe(1);
  });

  it('keeps all packs when another manifest cannot be read', async () => {
    await store('ck-1');
    await backend.put('checkpoints/ck-2/manifest.json', Buffer.from('{'));

    expect((await removeCheckpoint(backend, 'ck-1', testOp())).keptPacks).toBe(1);
  });

  it('removes a damaged checkpoint and leaves its packs', async () => {
    await store('ck-1');
    await backend.put('checkpoints/ck-1/manifest.json', Buffer.from('{'));

    await removeCheckpoint(backend, 'ck-1', testOp());

    expect(await keys('checkpoints/')).toEqual([]);
    expect(await keys('packs/')).toHaveLength(1);
  });

  it('hides the checkpoint first, and a second call finishes what the first could not', async () => {
    await store('ck-1');
    const failing = watch(backend, async ({ name, key }, proceed) => {
      if (name === 'delete' && key.startsWith('packs/')) {
        throw new KybernateError('StorageUnavailable', 'lost by the test');
      }
      return proceed();
    });
    await expect(removeCheckpoint(failing, 'ck-1', testOp())).rejects.toMatchObject({ type: 'StorageUnavailable' });
    expect((await listStored(backend, testOp())).checkpoints).toEqual([]);

    expect((await removeCheckpoint(backend, 'ck-1', testOp())).freedBytes).toBeGreaterThan(0);

    expect(await keys()).toEqual([]);
    await expect(removeCheckpoint(backend, 'ck-1', testOp())).rejects.toMatchObject({ type: 'CheckpointNotFound' });
  });

  it('lets an upload that comes between its steps publish a whole checkpoint', async () => {
    for (const step of ['put condemned', 'list leases', 'list checkpoints', 'delete packs', 'delete index']) {
      await store('ck-1');
      let met = false;
      const meeting = watch(backend, async ({ name, key }, proceed) => {
        if (!met && `${name} ${key.split('/')[0]}` === step) {
          met = true;
          await store('ck-2');
        }
        return proceed();
      });
      const list = meeting.list.bind(meeting);
      meeting.list = async function* (prefix, options) {
        if (!met && `list ${prefix.split('/')[0]}` === step && prefix.split('/')[1] === '') {
          met = true;
          await store('ck-2');
        }
        yield* list(prefix, options);
      };

      await removeCheckpoint(meeting, 'ck-1', testOp());

      expect(met, step).toBe(true);
      await verifyRemote({ checkpointId: 'ck-2', backend, op: testOp() });
      await removeCheckpoint(backend, 'ck-2', testOp());
    }
  });

  it('refuses an id that is none', async () => {
    await expect(removeCheckpoint(backend, '../x', testOp())).rejects.toMatchObject({ type: 'InvalidInput' });
  });
});

function iso(fromNowMs: number): string {
  return new Date(Date.now() + 2 * fromNowMs).toISOString();
}

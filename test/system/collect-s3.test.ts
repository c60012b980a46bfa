/* Lists and garbage collection on a real S3 server. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Backend } from '../../store/backend/backend.ts';
import { forEachLimit } from '../../store/limit.ts';
import { publishManifest } from '../../store/publish.ts';
import { listStored } from '../../store/registry.ts';
import { removeCheckpoints } from '../../store/remove.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { verifyRemote } from '../../store/verify.ts';
import { watch } from '../harness/backends.ts';
import { makeCheckpoint, noise, testOp } from '../harness/checkpoint-dir.ts';
import { collect } from '../harness/collect.ts';
import { putManifest } from '../harness/manifests.ts';
import { faultsOf } from '../harness/quiet-store.ts';
import { Gateway } from '../harness/versitygw.ts';

/** Older than what may still belong to an upload. The server refuses calls by another clock than its own. */
const OLD_MS = 3 * 3_600_000;
const NEVER = new AbortController().signal;

let gateway: Gateway;
let backend: Backend;
beforeEach(async () => {
  gateway = await Gateway.make();
  backend = gateway.open('bucket', 'team/a');
  const list = backend.list.bind(backend);
  backend.list = async function* (prefix, options) {
    for await (const object of list(prefix, options)) {
      yield { ...object, modifiedMs: object.modifiedMs - OLD_MS };
    }
  };
});
afterEach(async () => {
  await backend.close();
  await gateway.remove();
  await rm(`${gateway.dir}-node`, { recursive: true, force: true });
});

async function store(checkpointId: string, publish = true): Promise<void> {
  const dir = join(`${gateway.dir}-node`, checkpointId);
  const manifest = await makeCheckpoint(dir, checkpointId, { 'criu/a.img': noise(300_000, checkpointId) });
  await uploadCheckpoint({ checkpointId, dir, manifest, backend, op: testOp(), packBytes: 100_000 });
  if (publish) {
    await publishManifest({ checkpointId, dir, backend, op: testOp() });
  }
}

describe('a store in s3', () => {
  it('is left with its checkpoints by a collection, and by removals', async () => {
    for (const id of ['ck-1', 'ck-2', 'ck-3', 'ck-4']) {
      await store(id);
    }
    await store('cut-off', false);
    await backend.delete('leases/upload-cut-off.json');
    await backend.delete('checkpoints/ck-1/manifest.json');

    const { confirmed } = await collect(backend, 'x', testOp());
    await removeCheckpoints(backend, ['ck-2', 'ck-3'], testOp());

    expect(confirmed?.confirmed.packs).toBeGreaterThanOrEqual(4);
    expect(await faultsOf(backend)).toEqual({ missing: [], left: [], damaged: [] });
    await verifyRemote({ checkpointId: 'ck-4', backend, op: testOp() });
  });

  it('with thousands of checkpoints is listed by a list of keys and the registry', async () => {
    const numbers = Array.from({ length: 1200 }, (_, index) => index);
    await forEachLimit(numbers, 32, NEVER, (index) =>
      putManifest(backend, `ck-${index}`, [[index.toString(16).padStart(32, '0'), 1000]]),
    );
    await new Promise((resolve) => setTimeout(resolve, 3100));
    await putManifest(backend, 'newest', [['f'.repeat(32), 1000]]);
    const first = await listStored(backend, testOp());
    const watched = watch(backend);

    const second = await listStored(watched, testOp());

    expect(first.read).toBe(1201);
    expect(second).toEqual({ ...first, read: 1 });
    expect(watched.calls).toHaveLength(3);
  });
});

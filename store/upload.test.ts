import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Manifest } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import { watch, type BackendCall } from '../test/harness/backends.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../test/harness/checkpoint-dir.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import { uploadCheckpoint } from './upload.ts';

let root = '';
let dir = '';
let backend: Backend;
let manifest: Manifest;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-upload-'));
  dir = join(root, 'checkpoint-ck-1');
  backend = await openLocalBackend(join(root, 'store'));
  manifest = await makeCheckpoint(dir, 'ck-1');
});
afterEach(() => rm(root, { recursive: true, force: true }));

const lost = (): KybernateError => new KybernateError('StorageUnavailable', 'lost by the test');
const isPack = (key: string): boolean => key.startsWith('packs/');

async function keys(prefix: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of backend.list(prefix)) {
    found.push(key);
  }
  return found;
}

describe('uploadCheckpoint', () => {
  it('stores every distinct chunk once, compressed, and no zeros', async () => {
    const uploaded = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });

    // 192 pages of noise, 100 kB of noise and a little: the zeros and the repetitions cost almost nothing
    expect(uploaded.sentBytes).toBeGreaterThan(192 * 4096 + 100_000);
    expect(uploaded.sentBytes).toBeLessThan(192 * 4096 + 100_000 + 10_000);
    expect(uploaded.reusedChunks).toBe(0);
    expect(await keys('packs/')).toEqual(uploaded.packs.map(([id]) => `packs/${id}`));
    expect(await keys('index/')).toEqual(uploaded.packs.map(([id]) => `index/${id}`));
  });

  it('writes its lease, then reads what is condemned and there, then sends packs before their indexes', async () => {
    const watched = watch(backend);

    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend: watched, op: testOp(), packBytes: 300_000 });

    const steps = watched.calls.map(({ name, key }) => `${name} ${key.split('/')[0]}`);
    expect(steps.slice(0, 7)).toEqual([
      'get leases',
      'put leases',
      'list condemned',
      'list damaged',
      'get keys',
      'list index',
      'list packs',
    ]);
    for (const { key } of watched.calls.filter((call) => call.name === 'put' && call.key.startsWith('index/'))) {
      const order = watched.calls.map((call) => call.key);
      expect(order.indexOf(key)).toBeGreaterThan(order.indexOf(key.replace('index/', 'packs/')));
    }
    expect(await keys('leases/')).toEqual(['leases/upload-ck-1.json']);
  });

  it('sends nothing when everything is there', async () => {
    const first = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    const watched = watch(backend);
    const other = join(root, 'checkpoint-ck-2');
    const same = await makeCheckpoint(other, 'ck-2');

    const again = await uploadCheckpoint({
      checkpointId: 'ck-2',
      dir: other,
      manifest: same,
      backend: watched,
      op: testOp(),
    });

    expect(again).toEqual({ sentBytes: 0, newChunks: 0, reusedChunks: first.newChunks, packs: first.packs });
    expect(watched.calls.filter(({ name, key }) => name === 'put' && !key.startsWith('leases/'))).toEqual([]);
  });

  it('sends only the chunks that changed', async () => {
    const first = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    const files = sampleFiles();
    noise(4096, 'written').copy(files['criu/pages-1.img'] ?? Buffer.alloc(0), 40 * 4096);
    const next = await makeCheckpoint(join(root, 'next'), 'ck-2', files);

    const second = await uploadCheckpoint({
      checkpointId: 'ck-2',
      dir: join(root, 'next'),
      manifest: next,
      backend,
      op: testOp(),
    });

    expect(second.newChunks).toBe(1);
    expect(second.reusedChunks).toBe(first.newChunks - 1);
    expect(second.packs).toHaveLength(2);
  });

  it('resumes after any lost call without sending a stored pack again', async () => {
    const whole = await uploadCheckpoint({
      checkpointId: 'ck-1',
      dir,
      manifest,
      backend: await openLocalBackend(join(root, 'reference')),
      op: testOp(),
      packBytes: 200_000,
    });
    expect(whole.packs.length).toBeGreaterThan(3);

    // each run loses its nth put, half of them before and half after it arrived, then a run is left in peace
    const puts: BackendCall[] = [];
    for (let attempt = 0; attempt < 12; attempt += 1) {
      let number = 0;
      const watched = watch(backend, async (call, proceed) => {
        const fails = call.name === 'put' && number++ === attempt;
        if (fails && attempt % 2 === 0) {
          throw lost();
        }
        await proceed();
        if (call.name === 'put' && isPack(call.key)) {
          puts.push(call);
        }
        if (fails) {
          throw lost();
        }
      });
      await uploadCheckpoint({
        checkpointId: 'ck-1',
        dir,
        manifest,
        backend: watched,
        op: testOp(),
        packBytes: 200_000,
      })
        .then(() => undefined)
        .catch((error: unknown) => expect(error).toMatchObject({ type: 'StorageUnavailable' }));
    }
    const last = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });

    const sent = puts.reduce((sum, { bytes }) => sum + bytes, 0);
    const stored = await Promise.all((await keys('packs/')).map(async (key) => (await backend.head(key))?.bytes ?? 0));
    expect(sent).toBe(stored.reduce((sum, bytes) => sum + bytes, 0));
    // the chunks are stored once; only headers and footers of more packs come on top
    expect(sent).toBeLessThan(whole.sentBytes + 12 * 200);
    expect(last.packs.map(([id]) => `packs/${id}`)).toEqual(await keys('packs/'));
  });

  it('counts over its attempts, also when its ledger was cut off', async () => {
    const first = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    await appendFile(join(dir, OWN_FILES.uploadLedger), '{"sentBytes":12');

    const second = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });

    expect(second).toEqual(first);
  });

  it('starts counting afresh for another store', async () => {
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    const other = await openLocalBackend(join(root, 'other'));
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend: other, op: testOp() });

    const back = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });

    expect(back.sentBytes).toBe(0);
  });

  it('finds a pack again whose index was never written, and writes the index', async () => {
    const first = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    const [index] = await keys('index/');
    const copy = await backend.get(index ?? '');
    await backend.delete(index ?? '');
    const watched = watch(backend);

    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend: watched, op: testOp() });

    expect(watched.calls.filter(({ name, key }) => name === 'put' && isPack(key))).toEqual([]);
    expect(await backend.get(index ?? '')).toEqual(copy);
    expect(first.packs).toHaveLength(1);
  });

  it.each([
    ['damaged index', async (pack: string) => backend.put(`index/${pack}`, noise(200, 'damage'))],
    ['wrong size', async (pack: string) => backend.put(`packs/${pack}`, noise(200, 'damage'))],
    ['death sentence', async (pack: string) => backend.put('condemned/x.json', Buffer.from(`{"packs":["${pack}"]}`))],
  ])('sends the chunks of a pack with a %s again', async (_, spoil) => {
    const first = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    const [pack] = first.packs[0] ?? [''];
    await spoil(pack);

    const second = await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });

    expect(second.packs.map(([id]) => id)).not.toContain(pack);
    expect(second.sentBytes).toBe(2 * first.sentBytes);
  });

  it('keeps at most three packs in memory', async () => {
    const big = join(root, 'big');
    const content = await makeCheckpoint(big, 'ck-big', { 'fs/a': noise(6_000_000, 'a') });
    let underWay = 0;
    let most = 0;
    const slow = watch(backend, async ({ key }, proceed) => {
      underWay += isPack(key) ? 1 : 0;
      most = Math.max(most, underWay);
      await new Promise((resolve) => setTimeout(resolve, 5));
      await proceed();
      underWay -= isPack(key) ? 1 : 0;
    });

    await uploadCheckpoint({
      checkpointId: 'ck-big',
      dir: big,
      manifest: content,
      backend: slow,
      op: testOp(),
      packBytes: 300_000,
    });

    expect((await keys('packs/')).length).toBeGreaterThan(10);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(3);
  });

  it.each([
    ['changed', async (path: string) => writeFile(path, noise(700, 'changed'))],
    ['shorter', async (path: string) => writeFile(path, noise(300, 'sample core'))],
    ['missing', async (path: string) => rm(path)],
  ])('refuses a local file that is %s since the capture', async (_, damage) => {
    await damage(join(dir, 'criu/core-1.img'));

    await expect(
      uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() }),
    ).rejects.toMatchObject({ type: 'CheckpointCorrupt', message: expect.stringContaining('criu/core-1.img') });
  });

  it('leaves no write under way when it is cancelled', async () => {
    const stop = new AbortController();
    const reason = new Error('stopped');
    let underWay = 0;
    const watched = watch(backend, async (call, proceed) => {
      underWay += 1;
      if (isPack(call.key)) {
        stop.abort(reason);
      }
      await proceed().finally(() => {
        underWay -= 1;
      });
    });

    const upload = uploadCheckpoint({
      checkpointId: 'ck-1',
      dir,
      manifest,
      backend: watched,
      op: testOp(stop.signal),
      packBytes: 200_000,
    });

    await expect(upload).rejects.toBe(reason);
    expect(underWay).toBe(0);
  });

  it('does not touch the files of the checkpoint', async () => {
    const before = await readFile(join(dir, 'criu/pages-1.img'));

    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });

    expect(Buffer.compare(await readFile(join(dir, 'criu/pages-1.img')), before)).toBe(0);
  });
});

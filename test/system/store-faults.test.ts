/*
 * The store when S3 misbehaves: a real server behind a proxy that spoils requests by script. An operation finishes, or
 * it ends with the error that says what was wrong; nothing that is damaged reaches the target.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Manifest } from '../../core/checkpoint/manifest.ts';
import { isKybernateError } from '../../core/errors.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import { listStored } from '../../store/registry.ts';
import { fetchCheckpoint } from '../../store/fetch.ts';
import { publishManifest } from '../../store/publish.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { verifyLocal, verifyRemote } from '../../store/verify.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../harness/checkpoint-dir.ts';
import { S3Proxy, type Fault, type Rule } from '../harness/s3-proxy.ts';
import { times } from '../harness/soak.ts';
import { Gateway } from '../harness/versitygw.ts';

let gateway: Gateway;
let proxy: S3Proxy;
let root = '';
let manifest: Manifest;
let source = '';
const target = (): string => join(root, 'target');
beforeAll(async () => {
  gateway = await Gateway.make();
  proxy = await S3Proxy.start(gateway.port);
  source = join(await mkdtemp(join(tmpdir(), 'kybernate-faults-')), 'source');
  manifest = await makeCheckpoint(source, 'ck-1', { ...sampleFiles(), 'fs/big': noise(3_000_000, 'big') });
});
afterAll(async () => {
  await proxy.close();
  await gateway.remove();
  await rm(dirname(source), { recursive: true, force: true });
});
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-faults-'));
});
afterEach(async () => {
  proxy.script();
  await gateway.empty();
  await rm(root, { recursive: true, force: true });
});

const ID = { checkpointId: 'ck-1' };
const OPERATIONS = {
  upload: (backend: Backend) =>
    uploadCheckpoint({ ...ID, dir: source, manifest, backend, op: testOp(), packBytes: 1_000_000 }),
  publish: (backend: Backend) => publishManifest({ ...ID, dir: source, backend, op: testOp() }),
  fetch: (backend: Backend) => fetchCheckpoint({ ...ID, backend, destDir: target(), op: testOp() }),
  verify: (backend: Backend) => verifyRemote({ ...ID, backend, op: testOp() }),
  list: (backend: Backend) => listStored(backend, testOp()),
};
type Operation = keyof typeof OPERATIONS;
/** They leave the store as it was. */
const READING: readonly Operation[] = ['fetch', 'verify', 'list'];

/** Brings the store to where the operation begins, undisturbed. */
async function prepare(operation: Operation): Promise<void> {
  const steps: Record<Operation, readonly Operation[]> = {
    upload: [],
    publish: ['upload'],
    fetch: ['upload', 'publish'],
    verify: ['upload', 'publish'],
    list: ['upload', 'publish'],
  };
  for (const step of steps[operation]) {
    await OPERATIONS[step](gateway.open());
  }
}

/** What each operation cannot do without. */
const REQUESTS: Record<Operation, ReadonlyArray<Pick<Rule, 'method' | 'key'>>> = {
  upload: [
    { method: 'PUT', key: 'packs/' },
    { method: 'PUT', key: 'index/' },
    { method: 'PUT', key: 'leases/' },
    { method: 'GET', key: '?' },
  ],
  publish: [
    { method: 'PUT', key: 'checkpoints/' },
    { method: 'HEAD', key: 'packs/' },
    { method: 'GET', key: 'checkpoints/' },
  ],
  fetch: [
    { method: 'GET', key: 'checkpoints/' },
    { method: 'GET', key: 'index/' },
    { method: 'GET', key: 'packs/' },
  ],
  verify: [
    { method: 'GET', key: 'checkpoints/' },
    { method: 'GET', key: 'index/' },
    { method: 'GET', key: 'packs/' },
  ],
  list: [
    { method: 'GET', key: '?' },
    { method: 'GET', key: 'checkpoints/' },
  ],
};
const CASES = (Object.keys(REQUESTS) as Operation[]).flatMap((operation) =>
  REQUESTS[operation].map((at) => [operation, at.method, at.key] as const),
);
const PASSING: ReadonlyArray<readonly [string, Fault, number]> = [
  ['503 twice', { kind: 'answer', status: 503, code: 'SlowDown' }, 2],
  ['500', { kind: 'answer', status: 500, code: 'InternalError' }, 1],
  ['429', { kind: 'answer', status: 429, code: 'TooManyRequests' }, 1],
  ['a lost answer', { kind: 'lose answer' }, 1],
  ['an answer that is cut off', { kind: 'cut answer', afterBytes: 20 }, 1],
  ['an answer in pieces', { kind: 'slow', pieceBytes: 50_000, pauseMs: 2 }, 3],
];

describe.each(CASES)('%s, with %s %s spoiled', (operation, method, key) => {
  it('finishes after faults that pass', async () => {
    await prepare(operation);
    for (const [what, fault, count] of PASSING) {
      proxy.script({ method, key, fault, times: count });
      const backend = proxy.open();

      await expect(OPERATIONS[operation](backend), what).resolves.toBeDefined();

      expect(proxy.spoiled, what).toBeGreaterThan(0);
      await backend.close();
      if (operation === 'fetch') {
        await verifyLocal(target(), manifest, testOp());
        await rm(target(), { recursive: true });
      }
      if (!READING.includes(operation)) {
        await gateway.empty();
        await prepare(operation);
      }
    }
  });

  it('is StorageUnavailable when they do not pass, and StorageDenied, never absent, when access is denied', async () => {
    await prepare(operation);
    const backend = proxy.open();

    proxy.script({ method, key, fault: { kind: 'answer', status: 503, code: 'SlowDown' } });
    await expect(OPERATIONS[operation](backend)).rejects.toMatchObject({ type: 'StorageUnavailable' });
    proxy.script({ method, key, fault: { kind: 'answer', status: 403, code: 'AccessDenied' } });
    await expect(OPERATIONS[operation](backend)).rejects.toMatchObject({ type: 'StorageDenied' });

    await expect(stat(target())).rejects.toMatchObject({ code: 'ENOENT' });
    proxy.script();
    await expect(OPERATIONS[operation](backend)).resolves.toBeDefined();
  });
});

describe('bytes that are not what was stored', () => {
  it.each([
    ['a wrong byte in a pack', 'packs/', { kind: 'wrong byte', at: 1000 }],
    ['a wrong byte in an index', 'index/', { kind: 'wrong byte', at: 40 }],
    ['a wrong byte in a manifest or file list', 'checkpoints/', { kind: 'wrong byte', at: 300 }],
    ['packs that are cut off', 'packs/', { kind: 'shorten', bytes: 5000 }],
    ['indexes that are cut off', 'index/', { kind: 'shorten', bytes: 10 }],
    ['manifests that are cut off', 'checkpoints/', { kind: 'shorten', bytes: 10 }],
  ] as const)('%s: never reach the target, and once only do no harm', async (_, key, fault) => {
    await prepare('fetch');
    const backend = proxy.open();
    const named = ['CheckpointCorrupt', 'StorageUnavailable'];

    proxy.script({ method: 'GET', key, fault });
    const fetched = OPERATIONS.fetch(backend).then(
      () => 'fetched',
      (error: unknown) => (isKybernateError(error) ? error.type : 'another error'),
    );
    // a damaged copy of an index is read from its pack instead
    expect(key === 'index/' ? ['fetched', ...named] : named).toContain(await fetched);
    await rm(target(), { recursive: true, force: true });

    proxy.script({ method: 'GET', key, fault, times: 1 });
    const again = await OPERATIONS.fetch(backend).then(
      () => 'fetched',
      (error: unknown) => (isKybernateError(error) ? error.type : 'another error'),
    );
    expect(['fetched', ...named]).toContain(again);
    if (again === 'fetched') {
      await verifyLocal(target(), manifest, testOp());
    } else {
      await expect(stat(target())).rejects.toMatchObject({ code: 'ENOENT' });
    }
  });
});

describe('connections', () => {
  it('that are cut in the middle of a pack make the upload send that pack again, and nothing else', async () => {
    proxy.script({ method: 'PUT', key: 'packs/', fault: { kind: 'cut request', afterBytes: 400_000 }, times: 1 });

    const { packs } = await OPERATIONS.upload(proxy.open());

    const sent = proxy.requests.filter(({ method, key }) => method === 'PUT' && key.startsWith('packs/'));
    expect(proxy.spoiled).toBe(1);
    expect(sent).toHaveLength(packs.length + 1);
    await OPERATIONS.publish(gateway.open());
    await OPERATIONS.verify(gateway.open());
  });

  it('that say nothing any more are given up within 20 s, named, and one that does so once is survived', async () => {
    await prepare('fetch');
    proxy.script({ method: 'GET', key: 'packs/', fault: { kind: 'stall', afterBytes: 1000 }, times: 1 });
    await OPERATIONS.fetch(proxy.open());
    await rm(target(), { recursive: true });

    proxy.script({ method: 'GET', key: 'packs/', fault: { kind: 'stall', afterBytes: 1000 } });
    const begin = performance.now();
    await expect(OPERATIONS.fetch(proxy.openPatient())).rejects.toMatchObject({ type: 'StorageUnavailable' });

    expect(performance.now() - begin).toBeLessThan(20_000);
    await expect(stat(target())).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('a killed upload', () => {
  const KILLS_A_STORE = 10;
  it('goes on where it was: what is stored is never sent again', async () => {
    const child = fileURLToPath(new URL('../harness/upload-child.ts', import.meta.url));
    const run = async (dir: string, store: string, killAfterMs: number): Promise<boolean> => {
      const uploading = spawn(process.execPath, [child, dir, store], { stdio: ['ignore', 'pipe', 'inherit'] });
      const exit = once(uploading, 'exit');
      await once(uploading.stdout, 'data');
      await Promise.race([exit, sleep(killAfterMs)]);
      uploading.kill('SIGKILL');
      await exit;
      return uploading.exitCode === 0;
    };
    for (let killed = 0; killed < times(200);) {
      const store = join(root, 'store');
      const dir = join(root, 'killed');
      const content = await makeCheckpoint(dir, 'ck-1', { 'fs/big': noise(24_000_000, `after ${killed}`) });
      const packs = async (): Promise<string[]> => readdir(join(store, 'packs')).catch(() => []);
      let stored: string[] = [];
      let ended = false;
      for (let kill = 0; !ended; kill += 1) {
        const last = kill === KILLS_A_STORE || killed === times(200);
        ended = await run(dir, store, last ? 60_000 : Math.random() * 300);
        killed += ended ? 0 : 1;
        expect(await packs()).toEqual(expect.arrayContaining(stored));
        stored = await packs();
      }
      const sizes = await Promise.all(stored.map(async (id) => (await stat(join(store, 'packs', id))).size));
      // each chunk is stored once: on top come the headers and indexes
      expect(sizes.reduce((sum, bytes) => sum + bytes, 0)).toBeLessThan(24_000_000 + 400 * 48 + stored.length * 200);
      const backend = await openLocalBackend(store);
      expect((await verifyRemote({ ...ID, backend, op: testOp() })).merkleRoot).toBe(content.merkleRoot);
      await rm(store, { recursive: true });
      await rm(dir, { recursive: true });
    }
  });
});

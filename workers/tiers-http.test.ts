import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openLocalBackend } from '../store/backend/local.ts';
import { publishManifest } from '../store/publish.ts';
import { prefetchCheckpoint } from '../store/tiers/prefetch.ts';
import { openTier } from '../store/tiers/open.ts';
import { TieredBackend } from '../store/tiers/tiered.ts';
import { uploadCheckpoint } from '../store/upload.ts';
import { makeCheckpoint, testOp } from '../test/harness/checkpoint-dir.ts';
import { serveTiers } from './tiers-http.ts';

const { log } = testOp();
let root = '';
let server: Server;
let url = '';
let tiered: TieredBackend;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-tiers-http-'));
  const store = await openLocalBackend(join(root, 'store'));
  const tier = await openTier({ name: 'nvme', dir: join(root, 'nvme'), budgetBytes: 1e9 }, log);
  tiered = new TieredBackend({ store, tiers: [tier], peers: [], log });
  const dir = join(root, 'source');
  const manifest = await makeCheckpoint(dir, 'ck-1');
  await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend: store, op: testOp(), packBytes: 300_000 });
  await publishManifest({ checkpointId: 'ck-1', dir, backend: store, op: testOp() });
  const parts = { tiered: () => Promise.resolve(tiered), backend: () => Promise.resolve(tiered), log };
  server = createServer((request, response) => {
    void serveTiers(parts, request, response).then((served) => {
      if (!served) {
        response.writeHead(404).end('{}');
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await tiered.close();
  await rm(root, { recursive: true, force: true });
});

async function call(path: string, method = 'GET'): Promise<{ status: number; body: unknown }> {
  const answer = await fetch(`${url}${path}`, { method });
  return { status: answer.status, body: await answer.json() };
}

describe('serveTiers', () => {
  it('tells budgets, and where a checkpoint and a file of it lie', async () => {
    await prefetchCheckpoint({ checkpointId: 'ck-1', backend: tiered, tier: 'nvme', pin: {}, op: testOp() });

    const all = await call('/v1/tiers');
    const file = await call('/v1/tiers?checkpoint=ck-1&file=criu/pages-1.img&offset=0&bytes=4096');

    expect(all).toMatchObject({
      status: 200,
      body: { tiers: [{ tier: 'nvme', budgetBytes: 1e9, pins: [{ checkpointId: 'ck-1' }] }] },
    });
    expect(file.body).toMatchObject({
      residency: { checkpointId: 'ck-1', tiers: [{ tier: 'nvme', pinned: 'always' }] },
      segment: { file: 'criu/pages-1.img', chunks: 1, tiers: [{ tier: 'nvme', chunks: 1, packs: 1 }] },
    });
  });

  it('takes a pin away, once', async () => {
    await prefetchCheckpoint({ checkpointId: 'ck-1', backend: tiered, tier: 'nvme', pin: {}, op: testOp() });

    expect((await call('/v1/pins/ck-1', 'DELETE')).body).toEqual({ unpinned: ['nvme'] });
    expect((await call('/v1/pins/ck-1', 'DELETE')).body).toEqual({ unpinned: [] });
    expect(tiered.tiers[0]?.state().pins).toEqual([]);
  });

  it.each([
    ['/v1/tiers?checkpoint=none', 'GET', 'CheckpointNotFound'],
    ['/v1/tiers?checkpoint=..%2Fx', 'GET', 'InvalidInput'],
    ['/v1/tiers?checkpoint=ck-1&file=a&offset=-1', 'GET', 'InvalidInput'],
    ['/v1/pins/A%20B', 'DELETE', 'InvalidInput'],
  ])('refuses %s', async (path, method, type) => {
    expect(await call(path, method)).toMatchObject({ status: 400, body: { error: { type } } });
  });

  it('leaves other paths to others', async () => {
    expect((await call('/v1/other')).status).toBe(404);
    expect((await call('/v1/tiers', 'POST')).status).toBe(404);
  });
});

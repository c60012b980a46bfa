import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { noise, testOp } from '../../test/harness/checkpoint-dir.ts';
import { packKey } from '../keys.ts';
import { peerRequests, readPeerToken } from '../tiers/peer-server.ts';
import { residentBackend } from '../tiers/resident.ts';
import { openTier } from '../tiers/open.ts';
import type { Tier } from '../tiers/tier.ts';
import { TieredBackend } from '../tiers/tiered.ts';
import type { Backend } from './backend.ts';
import { openLocalBackend } from './local.ts';
import { openPeerBackend } from './peer.ts';

const TOKEN = 'a-token-of-the-tests';
const PACK = '0'.repeat(31) + '1';
const { log } = testOp();
const guard = { mayEvictPack: () => Promise.resolve(true), mayEvictCheckpoint: () => Promise.resolve(true) };
let root = '';
let server: Server;
let url = '';
let near: Tier;
const peers: Backend[] = [];
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-peer-'));
  near = await openTier({ name: 'nvme', dir: join(root, 'near'), budgetBytes: 1e8 }, log);
  await near.store(packKey(PACK), noise(10_000, 'pack'), guard);
  server = createServer(peerRequests(() => Promise.resolve(residentBackend([near])), TOKEN));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  await Promise.all(peers.splice(0).map((peer) => peer.close()));
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(root, { recursive: true, force: true });
});

function peer(token = TOKEN): Backend {
  const backend = openPeerBackend({ node: 'near', url, token });
  peers.push(backend);
  return backend;
}

describe('a peer', () => {
  it('gives whole objects, ranges and sizes of what lies in its tiers, and says absent of the rest', async () => {
    const backend = peer();

    expect(await backend.get(packKey(PACK))).toEqual(new Uint8Array(noise(10_000, 'pack')));
    expect(await backend.get(packKey(PACK), { range: { offset: 9990, bytes: 100 } })).toHaveLength(10);
    expect(await backend.get(packKey(PACK), { range: { last: 7 } })).toEqual(
      new Uint8Array(noise(10_000, 'pack').subarray(-7)),
    );
    expect(await backend.get(packKey(PACK), { range: { offset: 20_000, bytes: 5 } })).toEqual(new Uint8Array());
    expect(await backend.head(packKey(PACK))).toMatchObject({ bytes: 10_000 });
    expect(await backend.get(packKey('2'.repeat(32)))).toBeUndefined();
    expect(await backend.head('leases/x.json')).toBeUndefined();
  });

  it.each(['', 'another-token-of-16', `${TOKEN}x`, TOKEN.slice(0, -1)])(
    'is refused by the token %j, which gets neither bytes nor sizes',
    async (token) => {
      const backend = peer(token);

      await expect(backend.get(packKey(PACK))).rejects.toMatchObject({ type: 'StorageDenied' });
      await expect(backend.head(packKey('2'.repeat(32)))).rejects.toMatchObject({ type: 'StorageDenied' });
    },
  );

  it('is never written to, nor listed', async () => {
    const headers = { authorization: `Bearer ${TOKEN}` };

    await expect(peer().put(packKey(PACK), new Uint8Array(1))).rejects.toMatchObject({ type: 'StorageDenied' });
    for (const method of ['PUT', 'DELETE', 'POST']) {
      expect((await fetch(`${url}/objects/${packKey(PACK)}`, { method, headers })).status).toBe(405);
    }
    expect((await fetch(`${url}/objects?prefix=`, { headers })).status).toBe(403);
    expect((await fetch(`${url}/v1/health`, { headers })).status).toBe(404);
    expect(near.bytesOf(packKey(PACK))).toBe(10_000);
  });

  it.each(['/objects/../secret', '/objects/packs/..%2f..%2fsecret', '/objects/.tmp/x', '/objects/pins/ck-1.json'])(
    'gives no file beside the objects of its tiers: %s',
    async (path) => {
      await writeFile(join(root, 'secret'), 'secret');
      await near.pins.add({ checkpointId: 'ck-1', packs: [] });

      const { request } = await import('node:http');
      const status = await new Promise((resolve, reject) => {
        const headers = { authorization: `Bearer ${TOKEN}` };
        const call = request(url, { path, headers, agent: false }, (answer) => {
          answer.resume();
          resolve(answer.statusCode);
        });
        call.once('error', reject);
        call.end();
      });

      expect([400, 404]).toContain(status);
    },
  );

  it('that is away is StorageUnavailable, and costs a tiered read nothing but the bytes of the store', async () => {
    const store = await openLocalBackend(join(root, 'store'));
    await store.put(packKey(PACK), noise(10_000, 'pack'));
    const away = openPeerBackend({ node: 'away', url: 'http://127.0.0.1:1', token: TOKEN });
    const tier = await openTier({ name: 'nvme', dir: join(root, 'far'), budgetBytes: 1e8 }, log);
    const backend = new TieredBackend({
      store,
      tiers: [tier],
      peers: [{ node: 'away', backend: away }],
      log,
      policy: { minBytes: 1 },
    });

    await expect(away.get(packKey(PACK))).rejects.toMatchObject({ type: 'StorageUnavailable' });
    expect(await backend.get(packKey(PACK))).toEqual(new Uint8Array(noise(10_000, 'pack')));
    await backend.close();
    await away.close();
  });
});

describe('readPeerToken', () => {
  it('reads one line from a file that is its user’s alone', async () => {
    const path = join(root, 'token');
    await writeFile(path, `${TOKEN}\n`, { mode: 0o600 });

    expect(await readPeerToken(path)).toBe(TOKEN);
    await chmod(path, 0o644);
    await expect(readPeerToken(path)).rejects.toMatchObject({ type: 'InvalidInput' });
    await chmod(path, 0o600);
    await writeFile(path, 'short');
    await expect(readPeerToken(path)).rejects.toThrow('at least 16');
  });
});

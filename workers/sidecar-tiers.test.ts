import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openLocalBackend } from '../store/backend/local.ts';
import { publishManifest } from '../store/publish.ts';
import { prefetchCheckpoint } from '../store/tiers/prefetch.ts';
import { uploadCheckpoint } from '../store/upload.ts';
import { makeCheckpoint, noise, testOp } from '../test/harness/checkpoint-dir.ts';
import { readConfig, sidecarEnv, type SidecarConfig } from './config.ts';
import { sidecarTiers, tierDirs, type SidecarTiers } from './sidecar-tiers.ts';

const PACK = `packs/${'0'.repeat(31)}1`;
let root = '';
let token = '';
let started: SidecarTiers[] = [];
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-sidecar-tiers-'));
  token = join(root, 'token');
  await writeFile(token, 'a-token-of-the-tests\n', { mode: 0o600 });
  started = [];
});
afterEach(async () => {
  await Promise.all(started.map((tiers) => tiers.close()));
  await rm(root, { recursive: true, force: true });
});

function config(env: Record<string, string>): SidecarConfig {
  return readConfig(sidecarEnv, { KYBERNATE_STORE: `file://${root}/store`, KYBERNATE_NODE: 'near', ...env });
}

async function start(env: Record<string, string>): Promise<SidecarTiers> {
  const openStore = (): ReturnType<typeof openLocalBackend> => openLocalBackend(join(root, 'store'));
  const tiers = await sidecarTiers({ config: config(env), log: testOp().log, pathOf: (dir) => dir, openStore });
  started.push(tiers);
  await tiers.start();
  return tiers;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

describe('tiers of a sidecar', () => {
  it('are none without settings, and the store is read as it is', async () => {
    const tiers = await start({});
    const backend = await tiers.backend();

    await backend.put(PACK, noise(100, 'a'));

    expect(backend.tiers).toEqual([]);
    expect(await backend.get(PACK)).toEqual(new Uint8Array(noise(100, 'a')));
    expect(tierDirs(config({}))).toEqual([]);
  });

  it('give to the peers that are named and have the token, but not to themselves', async () => {
    const port = await freePort();
    const peers = `near=http://127.0.0.1:${port}, far=http://127.0.0.1:${await freePort()}/`;
    const common = { KYBERNATE_PEERS: peers, KYBERNATE_PEER_TOKEN_FILE: token };
    const nvme = (name: string): Record<string, string> => ({
      KYBERNATE_TIER_NVME_DIR: join(root, name),
      KYBERNATE_TIER_NVME_BYTES: '1 GiB',
    });
    const near = await start({ ...common, ...nvme('near'), KYBERNATE_PEER_LISTEN: `127.0.0.1:${port}` });
    const far = await start({ ...common, ...nvme('far'), KYBERNATE_NODE: 'far' });
    const backend = await near.backend();
    const dir = join(root, 'source');
    const manifest = await makeCheckpoint(dir, 'ck-1');
    await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp() });
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    const wish = { checkpointId: 'ck-1', tier: 'nvme', op: testOp() } as const;

    const there = await prefetchCheckpoint({ ...wish, backend: await far.backend() });
    const here = await prefetchCheckpoint({ ...wish, backend });

    expect(there.from).toEqual({ 'peer:near': there.bytes });
    expect(here.presentBytes).toBe(here.bytes);
  });

  it.each([
    ['a directory without a budget', { KYBERNATE_TIER_NVME_DIR: '/n' }, 'KYBERNATE_TIER_NVME_BYTES is not'],
    ['a budget without a directory', { KYBERNATE_TIER_RAM_BYTES: '1GiB' }, 'KYBERNATE_TIER_RAM_DIR is not'],
    ['peers without a token', { KYBERNATE_PEERS: 'a=http://10.0.0.1:1' }, 'KYBERNATE_PEER_TOKEN_FILE'],
    ['a listener without a token', { KYBERNATE_PEER_LISTEN: '127.0.0.1:1' }, 'KYBERNATE_PEER_TOKEN_FILE'],
  ])('refuse %s', async (_, env, named) => {
    await expect(start(env)).rejects.toThrow(named);
  });

  it('refuse a token that others can read, and an address that is taken', async () => {
    const port = await freePort();
    const env = { KYBERNATE_PEER_LISTEN: `127.0.0.1:${port}`, KYBERNATE_PEER_TOKEN_FILE: token };
    await start(env);

    await expect(start(env)).rejects.toThrow('KYBERNATE_PEER_LISTEN');
    await chmod(token, 0o640);
    await expect(start(env)).rejects.toMatchObject({ type: 'InvalidInput' });
  });

  it.each([
    ['KYBERNATE_TIER_NVME_BYTES', '64gib'],
    ['KYBERNATE_TIER_NVME_BYTES', '0'],
    ['KYBERNATE_TIER_RAM_DIR', 'relative'],
    ['KYBERNATE_PEERS', 'http://10.0.0.1:1'],
    ['KYBERNATE_PEERS', 'a=http://user@10.0.0.1:1'],
    ['KYBERNATE_PEER_LISTEN', '7411'],
  ])('name %s with its value %s when it is wrong', (name, value) => {
    expect(() => config({ [name]: value })).toThrow(`${name}: ${JSON.stringify(value)} is wrong`);
  });
});

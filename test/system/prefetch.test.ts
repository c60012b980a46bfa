/*
 * Two nodes with tiers, each other's peers: what an upload leaves near, what a prefetch brings, and restores that read
 * from there. The second node has sidecar and workers, and no containers: its run directory is its own.
 */
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
  closeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { renderReport } from '../../cli/commands/tiers.ts';
import type { PrefetchRequest, PrefetchResult } from '../../client/index.ts';
import { COUNTER, countsOn } from '../harness/aftermath.ts';
import { runCli } from '../harness/run-cli.ts';
import { BUSYBOX, Stack, until } from '../harness/stack.ts';
import { fromLane } from '../harness/provided.ts';

let shared = '';
let near: Stack;
let far: Stack;
let checkpointId = '';

beforeAll(async () => {
  shared = mkdtempSync('/dev/shm/kybernate-prefetch-');
  const storeDir = join(shared, 'store');
  mkdirSync(storeDir, { mode: 0o700 });
  const token = join(shared, 'token');
  writeFileSync(token, 'the-token-of-both-nodes\n', { mode: 0o600 });
  const ports = await Promise.all([freePort(), freePort()]);
  const peers = ports.map((port, index) => `peer-${index}=http://127.0.0.1:${port}`);
  const open = (name: string, port: number, own: Record<string, string>): Promise<Stack> =>
    Stack.open({
      env: {
        KYBERNATE_STORE: `file://${storeDir}`,
        KYBERNATE_TIER_NVME_DIR: join(shared, name, 'nvme'),
        KYBERNATE_TIER_NVME_BYTES: '1GiB',
        KYBERNATE_TIER_RAM_DIR: join(shared, name, 'ram'),
        KYBERNATE_TIER_RAM_BYTES: '256MiB',
        KYBERNATE_PEERS: peers.join(','),
        KYBERNATE_PEER_LISTEN: `127.0.0.1:${port}`,
        KYBERNATE_PEER_TOKEN_FILE: token,
        ...own,
      },
    });
  near = await open('near', ports[0] ?? 0, {});
  const runDir = join(shared, 'far-run');
  mkdirSync(runDir, { mode: 0o711 });
  far = await open('far', ports[1] ?? 0, { KYBERNATE_RUN_DIR: runDir });
  await near.runContainer('steady', BUSYBOX, COUNTER);
  const checkpoint = await near.checkpoint('steady', { durability: 'remote' });
  checkpointId = checkpoint.checkpointId;
});
afterAll(async () => {
  await far.close();
  await near.close();
  rmSync(shared, { recursive: true, force: true });
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Name → size. */
function packsIn(dir: string): Record<string, number> {
  const packs = join(dir, 'packs');
  return Object.fromEntries(readdirSync(packs).map((name) => [name, statSync(join(packs, name)).size]));
}

async function prefetch(
  nodes: string[],
  tier: 'ram' | 'nvme' | 'local',
  options: Pick<PrefetchRequest, 'pin'> = {},
): Promise<PrefetchResult> {
  const timeouts = { nodePickupMs: 4000, heartbeatMs: 2000 };
  return (await near.client.prefetch({ checkpointId, nodes, tier, timeouts, ...options })).result();
}

it('an upload leaves its packs in nvme, and a prefetch brings them to another node from there', async () => {
  const stored = packsIn(join(shared, 'store'));
  expect(packsIn(join(shared, 'near/nvme'))).toEqual(stored);
  const bytes = Object.values(stored).reduce((sum, size) => sum + size, 0);

  const { nodes } = await prefetch([near.node, far.node, 'node-gone'], 'nvme', { pin: { expiresAfterMs: 3_600_000 } });

  expect(nodes).toMatchObject([
    { node: near.node, outcome: 'done', bytes, presentBytes: bytes, from: {} },
    { node: far.node, outcome: 'done', bytes, presentBytes: 0, from: { 'peer:peer-0': bytes } },
    { node: 'node-gone', outcome: 'failed', error: { type: 'NodeUnavailable' } },
  ]);
  expect(packsIn(join(shared, 'far/nvme'))).toEqual(stored);
  expect(await tiersOf(near)).toContain(`pinned in nvme: ${checkpointId} until `);
});

it('a restore reads from the tiers of its node, and heals what is damaged there from the store', async () => {
  const { nodes } = await prefetch([near.node], 'ram');
  const [name = '', size = 0] = Object.entries(packsIn(join(shared, 'store')))[0] ?? [];
  expect(nodes).toMatchObject([{ outcome: 'done', from: { nvme: expect.any(Number) as number } }]);
  near.removeLocal(checkpointId);
  // Without the store's packs nothing but the tiers can have given them.
  renameSync(join(shared, 'store/packs'), join(shared, 'packs-away'));
  expect((await near.restore(checkpointId, 'from-tiers')).from).toBe('store');
  renameSync(join(shared, 'packs-away'), join(shared, 'store/packs'));
  await countsOn(near, 'from-tiers');
  await near.removeContainer('from-tiers');

  near.removeLocal(checkpointId);
  for (const tier of ['ram', 'nvme']) {
    for (let at = 1000; at < size; at += 50_000) {
      flipBit(join(shared, 'near', tier, 'packs', name), at);
    }
  }
  expect((await near.restore(checkpointId, 'from-damaged')).from).toBe('store');

  await countsOn(near, 'from-damaged');
  await near.removeContainer('from-damaged');
  near.removeLocal(checkpointId);
});

it('a copy that only one node has is listed on another one, which names the node that does not answer', async () => {
  await near.checkpoint('steady', { checkpointId: 'only-near', durability: 'local' });

  const { stdout, stderr, exitCode } = await runCli(far.variables, 'ls', '--all-nodes');

  expect(exitCode).toBe(0);
  expect(stdout).toMatch(new RegExp(`^only-near .* local +no .*${near.node}`, 'm'));
  expect(stdout).toMatch(new RegExp(`^${checkpointId} .* remote +no `, 'm'));
  expect(stderr).toContain('note: what node-gone has is not shown: ');
  near.removeLocal('only-near');
});

it('a prefetch to local brings files from which a restore starts without the store', async () => {
  const { nodes } = await prefetch([near.node], 'local');
  renameSync(join(shared, 'store'), join(shared, 'store-away'));

  const restored = await near.restore(checkpointId, 'from-files');

  renameSync(join(shared, 'store-away'), join(shared, 'store'));
  expect(nodes).toMatchObject([{ outcome: 'done', presentBytes: 0 }]);
  expect(restored).toMatchObject({ from: 'local', fetchedBytes: 0 });
  await countsOn(near, 'from-files');
});

it('a sidecar that is killed in a prefetch brings the rest when it is back', async () => {
  await far.stopSidecar();
  rmSync(join(shared, 'far/nvme'), { recursive: true });
  await far.startWorkers();
  const handle = await near.client.prefetch({
    checkpointId,
    nodes: [far.node],
    timeouts: { heartbeatMs: 1000, nodePickupMs: 10_000 },
  });
  await until('the first byte', () => hasFiles(join(shared, 'far/nvme')), 20_000, 1);
  await far.kill('sidecar');
  await far.startWorkers();

  const { nodes } = await handle.result();

  expect(nodes).toMatchObject([{ node: far.node, outcome: 'done' }]);
  expect(packsIn(join(shared, 'far/nvme'))).toEqual(packsIn(join(shared, 'store')));
});

function hasFiles(dir: string): boolean {
  try {
    return readdirSync(dir, { recursive: true, withFileTypes: true }).some((entry) => entry.isFile());
  } catch {
    return false;
  }
}

function flipBit(path: string, at: number): void {
  const file = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(file, byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 1;
  writeSync(file, byte, 0, 1, at);
  closeSync(file);
}

/** As `kybernate tiers` shows it. */
async function tiersOf(stack: Stack): Promise<string> {
  const { request } = await import('node:http');
  const socketPath = join(fromLane('containerd').runDir, 'sidecar/transfer-http.sock');
  const text = await new Promise<string>((resolve, reject) => {
    const call = request({ socketPath, path: '/v1/tiers' }, (answer) => {
      const parts: Buffer[] = [];
      answer.on('data', (part: Buffer) => parts.push(part));
      answer.once('end', () => resolve(Buffer.concat(parts).toString()));
    });
    call.once('error', reject);
    call.end();
  });
  return renderReport(JSON.parse(text) as Parameters<typeof renderReport>[0], stack.node);
}

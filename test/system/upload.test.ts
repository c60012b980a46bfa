/* Between the node and an S3 server that goes away, and a sidecar that dies on the way. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { getManifest } from '../../store/catalog.ts';
import { checkpointsOf, COUNTER, countsOn, nothingLeft } from '../harness/aftermath.ts';
import { BUSYBOX, PYTHON, Stack, until } from '../harness/stack.ts';
import { CREDENTIALS, Gateway } from '../harness/versitygw.ts';
import { memoryCommand, workload } from '../harness/workloads.ts';

const MEMORY_MIB = 220;

let gateway: Gateway;
let stack: Stack;

beforeAll(async () => {
  gateway = await Gateway.make();
  stack = await Stack.open({
    env: {
      KYBERNATE_STORE: 's3://bucket/node',
      KYBERNATE_S3_ENDPOINT: gateway.endpoint,
      KYBERNATE_S3_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
    },
  });
  await stack.runContainer('steady', BUSYBOX, COUNTER);
});
afterAll(async () => {
  await stack.close();
  await gateway.remove();
});

/** Name, size and time of every whole pack: versitygw keeps objects as files, uploads under way elsewhere. */
function packs(): Map<string, { readonly bytes: number; readonly mtimeMs: number }> {
  const dir = join(gateway.dir, 'bucket/node/packs');
  try {
    const stats = readdirSync(dir).map((name) => [name, statSync(join(dir, name))] as const);
    return new Map(stats.map(([name, { size, mtimeMs }]) => [name, { bytes: size, mtimeMs }]));
  } catch {
    return new Map();
  }
}

it('the sidecar is killed in the upload: what is in the store is not sent again', async () => {
  const command = memoryCommand(MEMORY_MIB, 16);
  await stack.runContainer('large', PYTHON, command, workload());
  const state = await stack.readJson<{ token: string; sequence: number }>('large', '/tmp/state.json');

  const timeouts = { heartbeatMs: 2000 };
  const handle = await stack.startCheckpoint('large', { durability: 'verified', timeouts });
  await until('the first pack', () => packs().size > 0, 30_000, 2);
  await stack.kill('sidecar');
  const before = packs();
  expect((await checkpointsOf(stack)).pending).toEqual([handle.checkpointId]);
  await stack.startWorkers();
  const result = await handle.result();

  const after = packs();
  const sentBytes = [...after.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  expect(after.size).toBeGreaterThan(before.size);
  before.forEach((pack, name) => expect(after.get(name)).toEqual(pack));
  const { manifest } = await getManifest(gateway.open('bucket', 'node'), handle.checkpointId);
  expect(new Map(manifest.packs)).toEqual(new Map([...after].map(([name, { bytes }]) => [name, bytes])));
  // The random pages do not shrink, all else does: no chunk is stored twice.
  expect(sentBytes).toBeGreaterThan(MEMORY_MIB * 2 ** 20);
  expect(sentBytes).toBeLessThan(result.bytes.total * 1.01);
  expect(result.bytes.stored).toBeLessThanOrEqual(sentBytes * 1.02);
  expect(result.bytes.stored).toBeGreaterThan(sentBytes * 0.6);
  expect((await checkpointsOf(stack)).pending).toEqual([]);
  const now = await stack.readJson<typeof state>('large', '/tmp/state.json');
  expect(now.token).toBe(state.token);
  expect(now.sequence).toBeGreaterThan(state.sequence);
  await stack.removeContainer('large');
  stack.removeLocal(handle.checkpointId);
  await nothingLeft(stack);
});

describe('while the S3 server is away', () => {
  beforeAll(() => gateway.stop());
  afterAll(() => gateway.start());

  it('a cancelled checkpoint stays on the node and is pending no more', async () => {
    const handle = await stack.startCheckpoint('steady', { durability: 'remote' });
    await until('the local commit', async () => (await checkpointsOf(stack)).pending.includes(handle.checkpointId));
    await until('the upload', async () => (await handle.progress())?.phase === 'uploading');
    await handle.cancel();

    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });

    expect(await checkpointsOf(stack)).toMatchObject({ listed: [handle.checkpointId], pending: [] });
    await countsOn(stack, 'steady');
    await nothingLeft(stack, [handle.checkpointId]);
    expect((await stack.restore(handle.checkpointId, 'from-cancelled')).from).toBe('local');
    await stack.removeContainer('from-cancelled');
    stack.removeLocal(handle.checkpointId);
  });

  it('a checkpoint is local and pending, its source runs and is free for the next one; it goes on by itself', async () => {
    const handle = await stack.startCheckpoint('steady', { durability: 'remote' });
    await until('the local commit', async () => (await checkpointsOf(stack)).pending.includes(handle.checkpointId));
    await countsOn(stack, 'steady');
    const second = await stack.checkpoint('steady', { durability: 'local' });

    expect(second.source).toBe('running');
    expect(await checkpointsOf(stack)).toMatchObject({
      listed: [handle.checkpointId, second.checkpointId].toSorted(),
      pending: [handle.checkpointId],
    });
    expect((await handle.progress())?.phase).toBe('uploading');
    await gateway.start();
    const result = await handle.result();

    expect(result).toMatchObject({ durability: 'remote', source: 'running' });
    expect((await checkpointsOf(stack)).pending).toEqual([]);
    stack.removeLocal(handle.checkpointId);
    stack.removeLocal(second.checkpointId);
    expect((await stack.restore(handle.checkpointId, 'from-s3')).from).toBe('store');
    await countsOn(stack, 'from-s3');
    stack.removeLocal(handle.checkpointId);
    await gateway.stop();
  });
});

it('after: stop with durability verified ends the source when its bytes were read back', async () => {
  await stack.runContainer('ended', BUSYBOX, COUNTER);
  await countsOn(stack, 'ended');

  const result = await stack.checkpoint('ended', { after: 'stop', durability: 'verified' });

  expect(result).toMatchObject({ source: 'stopped', durability: 'verified' });
  expect(await stack.ctr('tasks', 'ls')).toMatch(/^ended\s+\d+\s+STOPPED$/m);
  stack.removeLocal(result.checkpointId);
  const { from, fetchedBytes } = await stack.restore(result.checkpointId, 'ended-back');
  expect(from).toBe('store');
  expect(fetchedBytes).toBeGreaterThan(0);
  await countsOn(stack, 'ended-back');
  await nothingLeft(stack, [result.checkpointId]);
});

/*
 * A sidecar that is killed at any moment of an upload, a prefetch and a download, each beside a garbage collection of the
 * same store that takes away what the upload shares with a removed checkpoint.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { hasEnded, type TransferStatus } from '../../core/contract/transfer.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { manifestKey } from '../../store/keys.ts';
import { listStored } from '../../store/registry.ts';
import { verifyRemote } from '../../store/verify.ts';
import { sidecarSockets } from '../../workers/sidecar-sockets.ts';
import { testOp } from '../harness/checkpoint-dir.ts';
import { collect } from '../harness/collect.ts';
import { faultsOf } from '../harness/quiet-store.ts';
import { times } from '../harness/soak.ts';
import { Stack, until } from '../harness/stack.ts';
import { CREDENTIALS, Gateway } from '../harness/versitygw.ts';

const MIB = 2 ** 20;
/** Each of three calls in a round is hit by one kill. */
const ROUNDS = times(67);
/** A transfer of these sizes takes about that long; a few kills come behind its end. */
const KILL_WITHIN_MS = 700;
/** Older than what a collection leaves alone because it may belong to an upload. */
const OLD_MS = 3 * 3_600_000;

let shared = '';
let gateway: Gateway;
let backend: Backend;
let stack: Stack;
let roots = '';

beforeAll(async () => {
  shared = mkdtempSync('/dev/shm/kybernate-killed-');
  gateway = await Gateway.make(shared);
  backend = gateway.open();
  stack = await Stack.open({
    env: {
      KYBERNATE_STORE: 's3://bucket',
      KYBERNATE_S3_ENDPOINT: gateway.endpoint,
      KYBERNATE_S3_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
      KYBERNATE_TIER_RAM_DIR: join(shared, 'ram'),
      KYBERNATE_TIER_RAM_BYTES: '64MiB',
    },
  });
  roots = join(stack.stateDir, 'sidecar/downloads');
});
afterAll(async () => {
  await stack.close();
  await backend.close();
  await gateway.remove();
  rmSync(shared, { recursive: true, force: true });
});

describe('a sidecar that is killed at any moment', () => {
  it('leaves nothing half: the next one ends what was begun, and a collection what nobody needs', async () => {
    let previous: { readonly id: string; readonly bytes: Buffer } | undefined;
    const hits = { upload: 0, prefetch: 0, download: 0 };
    for (let round = 0; round < ROUNDS; round += 1) {
      const id = `killed-${round}`;
      const bytes = Buffer.concat([previous?.bytes.subarray(0, 8 * MIB) ?? Buffer.alloc(0), randomBytes(24 * MIB)]);
      const source = directoryOf(id, bytes);
      if (previous !== undefined) {
        await leaveGarbage(previous.id);
      }

      // It waits for the lease of the upload.
      const collecting = collect(backend, `beside-${id}`, testOp(), () => sleep(100));
      const up = await killedIn('upload', { checkpointId: id, paths: [source] }, hits);
      await collecting;
      hits.prefetch += (await killedInPrefetch(id)) ? 1 : 0;
      const destDir = join(roots, `${id}-back`);
      const down = await killedIn('download', { checkpointId: id, destDir }, hits);

      expect([up.status, down]).toMatchObject(['done', { status: 'done', hash: up.hash }]);
      expect(readFileSync(join(destDir, id, 'bytes')).equals(bytes)).toBe(true);
      expect(readdirSync(roots).filter((name) => name.startsWith('.'))).toEqual([]);
      rmSync(source, { recursive: true });
      rmSync(destDir, { recursive: true });
      previous = { id, bytes };
    }
    process.stderr.write(`sidecar killed ${3 * ROUNDS} times, in the middle: ${JSON.stringify(hits)}\n`);
    await expectOnly([`killed-${ROUNDS - 1}`]);
  }, 3_600_000);
});

function directoryOf(id: string, bytes: Uint8Array): string {
  const dir = join(roots, id);
  mkdirSync(dir, { mode: 0o755 });
  writeFileSync(join(dir, 'bytes'), bytes, { mode: 0o644 });
  return dir;
}

/**
 * Removes a checkpoint as a deleter does that dies behind the manifest, long ago. The leases of killed readers go, too:
 * they would run out in an hour.
 */
async function leaveGarbage(checkpointId: string): Promise<void> {
  await removeReadLeases();
  await backend.delete(manifestKey(checkpointId));
  makeOld();
}

async function removeReadLeases(): Promise<void> {
  for await (const { key } of backend.list('leases/read-')) {
    await backend.delete(key);
  }
}

function makeOld(): void {
  const then = new Date(Date.now() - OLD_MS);
  for (const entry of readdirSync(join(gateway.dir, 'bucket'), { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) {
      utimesSync(join(entry.parentPath, entry.name), then, then);
    }
  }
}

/** Kills the sidecar somewhere in the transfer, or just behind it, and waits for the end in the next one. */
async function killedIn(
  kind: 'upload' | 'download',
  call: object,
  hits: Record<'upload' | 'download', number>,
): Promise<TransferStatus> {
  const { transferId } = await ask('POST', `/v1/${kind}`, call);
  await sleep(Math.random() * KILL_WITHIN_MS);
  const atKill = await ask('GET', `/v1/transfers/${transferId}`);
  hits[kind] += hasEnded(atKill) ? 0 : 1;
  await restarted();
  let state = atKill;
  await until(`the end of ${kind}`, async () => {
    state = await ask('GET', `/v1/transfers/${transferId}`);
    return hasEnded(state);
  });
  expect(state).toMatchObject({ status: 'done' });
  return state;
}

/** @returns whether it was killed in the middle */
async function killedInPrefetch(checkpointId: string): Promise<boolean> {
  const timeouts = { heartbeatMs: 1500, nodePickupMs: 20_000 };
  const handle = await stack.client.prefetch({ checkpointId, nodes: [stack.node], tier: 'ram', timeouts });
  let ended = false;
  const result = handle.result().finally(() => (ended = true));
  await sleep(Math.random() * KILL_WITHIN_MS);
  const inTheMiddle = !ended;
  await restarted();
  expect((await result).nodes).toMatchObject([{ outcome: 'done' }]);
  return inTheMiddle;
}

async function restarted(): Promise<void> {
  await stack.kill('sidecar');
  await stack.startWorkers();
}

/** What is left when everything is over and old: these checkpoints, whole, and no object besides. */
async function expectOnly(ids: readonly string[]): Promise<void> {
  await removeReadLeases();
  makeOld();
  await collect(backend, 'last', testOp());
  for (const checkpointId of ids) {
    await verifyRemote({ checkpointId, backend, op: testOp() });
  }
  expect((await listStored(backend, testOp())).checkpoints.map(({ checkpointId }) => checkpointId)).toEqual(ids);
  expect(await faultsOf(backend)).toEqual({ missing: [], left: [], damaged: [] });
}

function ask(method: string, path: string, body?: object): Promise<TransferStatus> {
  const { http } = sidecarSockets(stack.runDir);
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: http, method, path, agent: false }, (answer) => {
      let text = '';
      answer.on('data', (part: Buffer) => (text += part.toString()));
      answer.on('end', () => resolve(JSON.parse(text) as TransferStatus));
    });
    asked.once('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
  });
}

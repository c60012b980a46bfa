/*
 * `verifyCheckpoint` and `repairCheckpoint` with the activities of the sidecar and of the node worker over a real store
 * in a directory: what is damaged there is found, named and whole again.
 */
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NativeConnection, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import { mapErrorsInterceptor } from '../../activities/map-errors.ts';
import {
  createFetchActivities,
  createNodeControlActivities,
  createVerifyActivities,
} from '../../activities/node/index.ts';
import { createTransferActivities } from '../../activities/transfer/index.ts';
import { createKybernateClient, type KybernateClient } from '../../client/index.ts';
import type { ProbeInput, ProbeResult } from '../../core/contract/checkpoint.ts';
import type { Problem } from '../../core/contract/verify.ts';
import { KybernateError } from '../../core/errors.ts';
import { fetchQueue, nodeControlQueue, transferQueue, verifyQueue } from '../../core/task-queues.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import { publishManifest } from '../../store/publish.ts';
import { TieredBackend } from '../../store/tiers/tiered.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../harness/checkpoint-dir.ts';
import '../harness/provided.ts';
import { happyActivities } from './happy.ts';
import { openHarness, type Harness } from './harness.ts';
import { TIMEOUTS } from './requests.ts';

const REAL_NODE = 'node-real';

let root = '';
let harness: Harness;
let client: KybernateClient;
let stopWorkers: () => Promise<void>;
let backend: Backend;
/** the next manifest is not put */
let failNextManifest = false;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-repair-'));
  const server = inject('temporal');
  harness = await openHarness({ server });
  client = await createKybernateClient({ address: server.address, namespace: server.namespace, env: {} });
  backend = await openLocalBackend(join(root, 'store'));
  stopWorkers = await serve(server);
});
afterAll(async () => {
  await stopWorkers();
  await client.close();
  await harness.close();
  await rm(root, { recursive: true, force: true });
});

async function serve({ address, namespace }: { address: string; namespace: string }): Promise<() => Promise<void>> {
  const put = backend.put.bind(backend);
  backend.put = async (key, bytes, options) => {
    if (failNextManifest && key.endsWith('/manifest.json')) {
      failNextManifest = false;
      throw new KybernateError('StorageUnavailable', 'the store went away');
    }
    await put(key, bytes, options);
  };
  const { log } = testOp();
  const store = new TieredBackend({ store: backend, tiers: [], peers: [], log });
  const catalog = localCatalog(join(root, 'state/checkpoints'));
  const opened = (): Promise<TieredBackend> => Promise.resolve(store);
  const settings = { stateDir: join(root, 'state'), runDir: join(root, 'run') };
  const deps = { node: { settings } as unknown as NodeDeps, catalog, backend: opened };
  const connection = await NativeConnection.connect({ address });
  const common = { connection, namespace, interceptors: { activity: [mapErrorsInterceptor] } };
  const transfer = createTransferActivities({ catalog, backend: opened, tiered: opened, ledgerDir: root });
  const probeNode = (input: ProbeInput): Promise<ProbeResult> => happyActivities.probeNode(input);
  const control = { ...createNodeControlActivities(deps), probeNode };
  const workers = await Promise.all([
    Worker.create({ ...common, taskQueue: transferQueue(REAL_NODE), activities: { ...transfer } }),
    Worker.create({ ...common, taskQueue: fetchQueue(REAL_NODE), activities: { ...createFetchActivities(deps) } }),
    Worker.create({ ...common, taskQueue: verifyQueue(REAL_NODE), activities: { ...createVerifyActivities(deps) } }),
    Worker.create({ ...common, taskQueue: nodeControlQueue(REAL_NODE), activities: control }),
  ]);
  const running = Promise.all(workers.map((worker) => worker.run()));
  return async () => {
    workers.forEach((worker) => worker.shutdown());
    await running;
    await connection.close();
  };
}

function dirOf(checkpointId: string): string {
  return join(root, 'state/checkpoints', `checkpoint-${checkpointId}`);
}

/** @returns its packs */
async function publish(checkpointId: string): Promise<string[]> {
  const dir = dirOf(checkpointId);
  const manifest = await makeCheckpoint(dir, checkpointId, sampleFiles(checkpointId));
  const request = { checkpointId, dir, backend, op: testOp(), ledgerPath: join(root, 'ledger') };
  const { packs } = await uploadCheckpoint({ ...request, manifest, packBytes: 300_000 });
  await publishManifest(request);
  await rm(join(dir, 'upload.pending'));
  return packs.map(([pack]) => pack);
}

/** Of a pack: what is of every checkpoint that names it, while a chunk may be of another. */
const IN_HEADER = 3;

async function flip(path: string, at: number): Promise<void> {
  const bytes = await readFile(path);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await writeFile(path, bytes);
}

/** Real files on a busy machine may take longer than scripted steps. */
const PATIENT = { ...TIMEOUTS, heartbeatMs: 10_000, nodePickupMs: 20_000 };
const wish = (checkpointId: string) => ({ checkpointId, node: REAL_NODE, timeouts: PATIENT });

async function problemsOf(checkpointId: string): Promise<Problem[]> {
  const operation = await client.verify({ ...wish(checkpointId), mode: 'full' });
  const { ok, places } = await operation.result();
  const problems = places.flatMap((place) => place.problems);
  expect(ok).toBe(problems.length === 0);
  return problems;
}

describe('a checkpoint in a store and on a node', () => {
  it('that is whole is verified and left alone', async () => {
    await publish('ck-whole');
    const before = await readdir(join(root, 'store/packs'));

    const repaired = await (await client.repair(wish('ck-whole'))).result();

    expect(await problemsOf('ck-whole')).toEqual([]);
    expect(repaired).not.toHaveProperty('store');
    expect(await readdir(join(root, 'store/packs'))).toEqual(before);
  });

  it('that is damaged in the store is repaired from the node, also when the store goes away in between', async () => {
    const [pack = ''] = await publish('ck-store');
    await flip(join(root, 'store/packs', pack), IN_HEADER);
    const found = await problemsOf('ck-store');
    failNextManifest = true;

    const repaired = await (await client.repair(wish('ck-store'))).result();

    expect(found.map((problem) => problem.pack)).toContain(pack);
    expect(repaired.store?.markedPacks).toEqual([pack]);
    expect(failNextManifest).toBe(false);
    expect(await problemsOf('ck-store')).toEqual([]);
  });

  it('that is damaged on the node, or gone there, is brought from the store', async () => {
    await publish('ck-node');
    await flip(join(dirOf('ck-node'), 'criu/core-1.img'), 10);
    const found = await problemsOf('ck-node');

    await (await client.repair(wish('ck-node'))).result();
    const after = await problemsOf('ck-node');
    await rm(dirOf('ck-node'), { recursive: true });
    await (await client.repair({ ...wish('ck-node'), where: 'node' })).result();

    expect(found).toMatchObject([{ file: 'criu/core-1.img', chunk: 0, kind: 'damaged' }]);
    expect(after).toEqual([]);
    expect((await stat(join(dirOf('ck-node'), 'metadata.json'))).isFile()).toBe(true);
    expect(await problemsOf('ck-node')).toEqual([]);
  });

  it('that is damaged in both places at different chunks is made whole from both', async () => {
    const packs = await publish('ck-both');
    const log = sampleFiles('ck-both')['logs/dump.log'] ?? Buffer.alloc(0);
    await writeFile(join(dirOf('ck-both'), 'logs/dump.log'), noise(log.length, 'log'));
    for (const pack of packs) {
      const bytes = await readFile(join(root, 'store/packs', pack));
      if (!bytes.includes(log)) {
        await flip(join(root, 'store/packs', pack), IN_HEADER);
      }
    }
    const found = await problemsOf('ck-both');

    const repaired = await (await client.repair(wish('ck-both'))).result();

    expect(new Set(found.map(({ file }) => file))).toContain('logs/dump.log');
    expect(repaired.before.map(({ ok }) => ok)).toEqual([false, false]);
    expect(await problemsOf('ck-both')).toEqual([]);
  });

  it('that lost the same chunk in both places is lost, and the message names it', async () => {
    const packs = await publish('ck-lost');
    await writeFile(join(dirOf('ck-lost'), 'criu/core-1.img'), noise(700, 'other'));
    for (const pack of packs) {
      await rm(join(root, 'store/packs', pack), { force: true });
    }

    await expect((await client.repair(wish('ck-lost'))).result()).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringMatching(/whole nowhere: .*chunk 0 of criu\/core-1\.img/) as string,
    });
  });
});

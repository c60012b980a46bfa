/*
 * Transfers whose workflow is terminated or reset in the middle, with the activities of the sidecar and of the node worker
 * over a real store in a directory: the bytes stop, nothing half-made is left, and the same request again completes.
 */
import { existsSync, readdirSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { NativeConnection, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import { isRunClosed } from '../../activities/control/runs.ts';
import { mapErrorsInterceptor } from '../../activities/map-errors.ts';
import {
  createFetchActivities,
  createNodeControlActivities,
  createVerifyActivities,
} from '../../activities/node/index.ts';
import type { StepInput } from '../../activities/contract.ts';
import { createTransferActivities } from '../../activities/transfer/index.ts';
import { METADATA_FILE } from '../../core/checkpoint/file-names.ts';
import type { ProbeInput } from '../../core/contract/checkpoint.ts';
import { fetchQueue, nodeControlQueue, nodeQueue, transferQueue, verifyQueue } from '../../core/task-queues.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { reconcile } from '../../engine/reconcile.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import { publishManifest } from '../../store/publish.ts';
import { TieredBackend } from '../../store/tiers/tiered.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { makeCheckpoint, sampleFiles, testOp } from '../harness/checkpoint-dir.ts';
import '../harness/provided.ts';
import { happyActivities } from './happy.ts';
import { openHarness, outcomeOf, type Harness } from './harness.ts';
import { TIMEOUTS, checkpointOf } from './requests.ts';

const NODE = 'node-abandoned';
/** A termination is learnt with the answer to a heartbeat. */
const timeouts = { ...TIMEOUTS, heartbeatMs: 3000, nodePickupMs: 20_000 };

let root = '';
let harness: Harness;
let backend: Backend;
let node: NodeDeps;
let stopWorkers: () => Promise<void>;
/** what reads and writes of packs wait for */
let gate: Gate | undefined;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-abandoned-'));
  harness = await openHarness({ server: inject('temporal') });
  backend = await openLocalBackend(join(root, 'store'));
  stopWorkers = await serve();
});
afterAll(async () => {
  await stopWorkers();
  await harness.close();
  await rm(root, { recursive: true, force: true });
});

class Gate {
  readonly #closes: () => boolean;
  readonly #reached = Promise.withResolvers<void>();
  readonly #opened = Promise.withResolvers<void>();
  readonly #aborted = Promise.withResolvers<void>();
  readonly reached = this.#reached.promise;
  readonly aborted = this.#aborted.promise;
  readonly open = this.#opened.resolve;

  /** @param closes absent: before the first pack */
  constructor(closes = (): boolean => true) {
    this.#closes = closes;
  }

  async pass(signal: AbortSignal | undefined): Promise<void> {
    if (!this.#closes()) {
      return;
    }
    this.#reached.resolve();
    const cut = new Promise<never>((_resolve, reject) => {
      signal?.addEventListener('abort', () => {
        this.#aborted.resolve();
        reject(signal.reason as Error);
      });
    });
    await Promise.race([this.#opened.promise, cut]);
  }
}

function gated(store: Backend): void {
  const put = store.put.bind(store);
  const get = store.get.bind(store);
  store.put = async (key, bytes, options) => {
    await (key.startsWith('packs/') ? gate?.pass(options?.signal) : undefined);
    await put(key, bytes, options);
  };
  store.get = async (key, options) => {
    await (key.startsWith('packs/') ? gate?.pass(options?.signal) : undefined);
    return get(key, options);
  };
}

async function serve(): Promise<() => Promise<void>> {
  const { address, namespace } = inject('temporal');
  gated(backend);
  const { log } = testOp();
  const store = new TieredBackend({ store: backend, tiers: [], peers: [], log });
  const catalog = localCatalog(join(root, 'state/checkpoints'));
  const opened = (): Promise<TieredBackend> => Promise.resolve(store);
  node = { settings: { node: NODE, stateDir: join(root, 'state'), runDir: join(root, 'run') } } as unknown as NodeDeps;
  const deps = { node, catalog, backend: opened };
  const control = {
    ...createNodeControlActivities(deps),
    probeNode: (input: ProbeInput) => happyActivities.probeNode(input),
    resumeContainer: (input: StepInput) => happyActivities.resumeContainer(input),
    endOperation: () => Promise.resolve(),
    discardCapture: () => Promise.resolve(),
  };
  const connection = await NativeConnection.connect({ address });
  const common = { connection, namespace, interceptors: { activity: [mapErrorsInterceptor] } };
  const transfer = createTransferActivities({ catalog, backend: opened, tiered: opened, ledgerDir: root });
  const activities: Record<string, object> = {
    [nodeQueue(NODE)]: happyActivities,
    [nodeControlQueue(NODE)]: control,
    [transferQueue(NODE)]: transfer,
    [fetchQueue(NODE)]: createFetchActivities(deps),
    [verifyQueue(NODE)]: createVerifyActivities(deps),
  };
  const workers = await Promise.all(
    Object.entries(activities).map(([taskQueue, served]) =>
      Worker.create({ ...common, taskQueue, activities: { ...served } }),
    ),
  );
  const running = Promise.all(workers.map((worker) => worker.run()));
  return async () => {
    workers.forEach((worker) => worker.shutdown());
    await running;
    await connection.close();
  };
}

const dirOf = (checkpointId: string): string => join(root, 'state/checkpoints', `checkpoint-${checkpointId}`);

/** On the node, and in the store when it is published. */
async function make(checkpointId: string, published: boolean): Promise<void> {
  const dir = dirOf(checkpointId);
  const manifest = await makeCheckpoint(dir, checkpointId, sampleFiles(checkpointId));
  if (published) {
    const request = { checkpointId, dir, backend, op: testOp(), ledgerPath: join(root, 'ledger') };
    await uploadCheckpoint({ ...request, manifest });
    await publishManifest(request);
  }
}

/** Starts it with the store closed, and waits until it stands there. */
async function startedBehind(closed: Gate, type: string, id: string, request: object): Promise<WorkflowHandle> {
  gate = closed;
  const handle = await harness.start(type, id, {}, request);
  await closed.reached;
  return handle;
}

/** To its last task: the step is begun anew by a run of its own. */
async function reset(handle: WorkflowHandle): Promise<void> {
  const { events } = await handle.fetchHistory();
  const ends = (events ?? []).filter((event) => event.workflowTaskCompletedEventAttributes);
  const { runId } = await handle.describe();
  await harness.client.workflowService.resetWorkflowExecution({
    namespace: inject('temporal').namespace,
    workflowExecution: { workflowId: handle.workflowId, runId },
    reason: 'by a test',
    workflowTaskFinishEventId: ends.at(-1)?.eventId ?? null,
    requestId: `reset-${runId}`,
  });
}

function open(closed: Gate): void {
  gate = undefined;
  closed.open();
}

/** What the node worker does every 30 s, and then: what is left anywhere but whole checkpoints. */
async function leftovers(): Promise<string[]> {
  const closed = (run: { workflowId: string; runId: string }): Promise<boolean> =>
    isRunClosed(harness.client, run.workflowId, run.runId);
  const { failed } = await reconcile(node, testOp(), closed);
  expect(failed).toEqual([]);
  const inside = async (dir: string): Promise<string[]> =>
    existsSync(join(root, dir)) ? (await readdir(join(root, dir))).map((name) => `${dir}/${name}`) : [];
  const checkpoints = await inside('state/checkpoints');
  return [
    ...(await inside('run/operations')),
    ...(await inside('run/leases')),
    ...(await inside('store/leases')),
    ...checkpoints.filter((dir) => !existsSync(join(root, dir, METADATA_FILE))),
  ];
}

describe.each(['terminated', 'reset'] as const)('a transfer whose workflow is %s', (how) => {
  const end = (handle: WorkflowHandle): Promise<unknown> =>
    how === 'terminated' ? handle.terminate('by a test') : reset(handle);
  const ended = how === 'terminated' ? { type: 'Terminated' } : { result: {} };

  it('leaves no half of a checkpoint that was being fetched, and no lease', async () => {
    const checkpointId = `ck-prefetch-${how}`;
    await make(checkpointId, true);
    await rm(dirOf(checkpointId), { recursive: true });
    const request = { nodes: [NODE], checkpointId, tier: 'local', timeouts };
    const closed = new Gate();

    const handle = await startedBehind(closed, 'prefetch', `prefetch-${how}`, request);
    await end(handle);
    await closed.aborted;
    open(closed);

    expect(await outcomeOf(harness.client.workflow.getHandle(handle.workflowId))).toMatchObject(ended);
    await expect.poll(leftovers, { timeout: 30_000, interval: 500 }).toEqual([]);
    expect(existsSync(dirOf(checkpointId))).toBe(how === 'reset');
  });

  it('leaves the copy of a node as it was, and nothing beside it, when it was being repaired', async () => {
    const checkpointId = `ck-repair-${how}`;
    await make(checkpointId, true);
    const lost = join(dirOf(checkpointId), 'criu/core-1.img');
    await rm(lost);
    const stagings = (): string[] =>
      readdirSync(join(root, 'state/checkpoints')).filter((name) => name.startsWith('.fetch-'));
    const closed = new Gate(() => stagings().length > 0);

    const handle = await startedBehind(closed, 'repairCheckpoint', `repair-${how}`, {
      checkpointId,
      node: NODE,
      timeouts,
    });
    await end(handle);
    await closed.aborted;
    open(closed);

    expect(await outcomeOf(harness.client.workflow.getHandle(handle.workflowId))).toMatchObject(ended);
    await expect.poll(leftovers, { timeout: 30_000, interval: 500 }).toEqual([]);
    expect(existsSync(join(dirOf(checkpointId), METADATA_FILE))).toBe(true);
    expect(existsSync(lost)).toBe(how === 'reset');
  });

  it('leaves no manifest of an upload, which the next one completes', async () => {
    const checkpointId = `ck-upload-${how}`;
    await make(checkpointId, false);
    const manifest = join(root, 'store/checkpoints', checkpointId, 'manifest.json');
    const wanted = (id: string): object =>
      checkpointOf(id, { node: NODE, checkpointId, durability: 'remote', timeouts });
    const closed = new Gate();

    const handle = await startedBehind(closed, 'checkpoint', `upload-${how}`, wanted(`upload-${how}`));
    await end(handle);
    await closed.aborted;
    expect(existsSync(manifest)).toBe(false);
    open(closed);
    expect(await outcomeOf(harness.client.workflow.getHandle(handle.workflowId))).toMatchObject(ended);
    const again = await harness.start('checkpoint', `upload-${how}-again`, {}, wanted(`upload-${how}-again`));

    expect(await outcomeOf(again)).toMatchObject({ result: { durability: 'remote' } });
    expect(existsSync(manifest)).toBe(true);
    await expect.poll(leftovers, { timeout: 30_000, interval: 500 }).toEqual([]);
  });
});

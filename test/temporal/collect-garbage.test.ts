/* `collectGarbage` over a real server, with the real steps on a store in a directory. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker, makeTelemetryFilterString } from '@temporalio/worker';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';

import { createControlActivities } from '../../activities/control/index.ts';
import { mapErrorsInterceptor } from '../../activities/map-errors.ts';
import { createKybernateClient, type KybernateClient } from '../../client/index.ts';
import type { CollectGarbageResult } from '../../core/contract/collect-garbage.ts';
import { KybernateError } from '../../core/errors.ts';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import { acquireLease } from '../../store/lease.ts';
import { publishManifest } from '../../store/publish.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { workflowBundlePath } from '../../workers/build-bundle.ts';
import { watch, type BackendCall } from '../harness/backends.ts';
import { makeCheckpoint, noise, testOp } from '../harness/checkpoint-dir.ts';
import '../harness/provided.ts';
import { outcomeOf, stepsOf } from './harness.ts';

/** Older than what may still belong to an upload. */
const OLD_MS = 3 * 3_600_000;

let root = '';
let store: Backend;
let around: (call: BackendCall, proceed: () => Promise<unknown>) => Promise<unknown>;
let client: Client;
let kybernate: KybernateClient;
let stopWorker: () => Promise<void>;
let startWorker: () => Promise<void>;
let close: () => Promise<void>;

beforeAll(async () => {
  Runtime.install({
    logger: new DefaultLogger('ERROR'),
    telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'ERROR', other: 'ERROR' }) } },
  });
  const { address, namespace } = inject('temporal');
  const [native, connection] = await Promise.all([
    NativeConnection.connect({ address }),
    Connection.connect({ address }),
  ]);
  client = new Client({ connection, namespace });
  kybernate = await createKybernateClient({ address, namespace, env: {} });
  startWorker = async () => {
    const worker = await Worker.create({
      connection: native,
      namespace,
      taskQueue: CONTROL_QUEUE,
      workflowBundle: { codePath: await workflowBundlePath() },
      activities: createControlActivities({ backend: () => Promise.resolve(asIfOld(watch(store, around))) }),
      interceptors: { activity: [mapErrorsInterceptor] },
      shutdownForceTime: 100,
    });
    // What is at work when it ends is given up, as when the process dies.
    const running = worker.run().catch(() => undefined);
    stopWorker = async () => {
      worker.shutdown();
      await running;
    };
  };
  close = async () => {
    await stopWorker();
    await kybernate.close();
    await connection.close();
    await native.close();
  };
  await startWorker();
});
afterAll(() => close());
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-collect-'));
  store = await openLocalBackend(join(root, 'store'));
  around = (_, proceed) => proceed();
});
afterEach(() => rm(root, { recursive: true, force: true }));

/** Packs look as if they had lain there for hours. */
function asIfOld(backend: Backend): Backend {
  return {
    ...backend,
    list: async function* (prefix, options) {
      for await (const object of backend.list(prefix, options)) {
        yield { ...object, modifiedMs: object.modifiedMs - OLD_MS };
      }
    },
  };
}

async function publish(checkpointId: string): Promise<void> {
  const dir = join(root, checkpointId);
  const manifest = await makeCheckpoint(dir, checkpointId, { 'criu/a.img': noise(5000, checkpointId) });
  await uploadCheckpoint({ checkpointId, dir, manifest, backend: store, op: testOp() });
  await publishManifest({ checkpointId, dir, backend: store, op: testOp() });
}

/** One checkpoint, and the garbage of another. */
async function fill(): Promise<void> {
  await publish('ck-kept');
  await publish('ck-gone');
  await store.delete('checkpoints/ck-gone/manifest.json');
}

async function count(prefix: string): Promise<number> {
  let found = 0;
  for await (const _ of store.list(prefix)) {
    found += 1;
  }
  return found;
}

let started = 0;
function start(request: object = {}): Promise<WorkflowHandle> {
  started += 1;
  const workflowId = `collect-${started}`;
  return client.workflow.start('collectGarbage', { workflowId, taskQueue: CONTROL_QUEUE, args: [request] });
}

describe('collectGarbage', () => {
  it('deletes the garbage, step by step, and tells what it did', async () => {
    await fill();

    const operation = await kybernate.collectGarbage({});
    const result = await operation.result();
    const progress = await operation.progress();

    expect(result).toMatchObject({
      store: store.url,
      dryRun: false,
      checkpoints: 1,
      stored: { packs: 2 },
      deleted: { packs: 1 },
      kept: { packs: 0 },
      objects: 1,
      unfinished: false,
    } satisfies Partial<Record<keyof CollectGarbageResult, unknown>>);
    expect(progress?.finished.map(({ phase }) => phase)).toEqual(['marking', 'waiting', 'deleting']);
    expect(await stepsOf(client.workflow.getHandle(operation.workflowId))).toEqual([
      'condemnGarbage',
      'confirmGarbage',
      'deleteGarbage',
      'sweepLeftovers',
    ]);
    expect([await count('packs/'), await count('checkpoints/'), await count('condemned/')]).toEqual([1, 2, 0]);
  });

  it('that is a dry run deletes nothing', async () => {
    await fill();

    const result = await (await start({ dryRun: true })).result();

    expect(result).toMatchObject({ dryRun: true, deleted: { packs: 1 }, objects: 1 });
    expect([await count('packs/'), await count('checkpoints/'), await count('condemned/')]).toEqual([2, 3, 0]);
  });

  it('waits for an upload, and goes on when that is over', async () => {
    await fill();
    const lease = await acquireLease(store, { id: 'upload-x', purpose: 'upload', checkpointId: 'x' }, testOp());
    const handle = await start({ lookEveryMs: 300 });
    await expect
      .poll(async () => handle.query<{ phase: string }>('progress'), { timeout: 20_000 })
      .toMatchObject({
        phase: 'waiting',
      });
    expect(await count('packs/')).toBe(2);

    await lease.release();

    expect(await handle.result()).toMatchObject({ deleted: { packs: 1 } });
  });

  it('cancelled while it waits, lifts the sentence and deletes nothing', async () => {
    await fill();
    const lease = await acquireLease(store, { id: 'upload-x', purpose: 'upload', checkpointId: 'x' }, testOp());
    const handle = await start();
    await expect.poll(() => count('condemned/'), { timeout: 20_000 }).toBe(2);

    await handle.cancel();

    expect(await outcomeOf(handle)).toMatchObject({ type: 'Cancelled' });
    expect([await count('packs/'), await count('condemned/')]).toEqual([2, 0]);
    await lease.release();
  });

  it('cancelled while it deletes, finishes what it has confirmed', async () => {
    await fill();
    const met = Promise.withResolvers<void>();
    const open = Promise.withResolvers<void>();
    around = async ({ name, key }, proceed) => {
      if (name === 'delete' && key.startsWith('packs/')) {
        met.resolve();
        await open.promise;
      }
      return proceed();
    };
    const handle = await start();
    await met.promise;

    await handle.cancel();
    open.resolve();

    expect(await outcomeOf(handle)).toMatchObject({ type: 'Cancelled' });
    expect([await count('packs/'), await count('condemned/')]).toEqual([1, 0]);
  });

  it('fails with StorageDenied of a single manifest, and leaves nothing behind', async () => {
    await fill();
    around = async ({ key }, proceed) => {
      if (key === 'checkpoints/ck-kept/manifest.json') {
        throw new KybernateError('StorageDenied', 'refused by the test');
      }
      return proceed();
    };

    const handle = await start();

    expect(await outcomeOf(handle)).toMatchObject({ type: 'StorageDenied' });
    expect([await count('packs/'), await count('condemned/')]).toEqual([2, 0]);
  });

  it('fails with CheckpointCorrupt while a manifest is damaged', async () => {
    await fill();
    await store.put('checkpoints/ck-bad/manifest.json', Buffer.from('{'));

    expect(await outcomeOf(await start())).toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringContaining('ck-bad') as string,
    });
    expect(await count('packs/')).toBe(2);
  });

  it('refuses fields that it does not know', async () => {
    expect(await outcomeOf(await start({ force: true }))).toMatchObject({ type: 'InvalidInput' });
  });

  it('goes on with another worker when its own dies in a deletion', { timeout: 90_000 }, async () => {
    await fill();
    const met = Promise.withResolvers<void>();
    around = async ({ name, key }, proceed) => {
      if (name === 'delete' && key.startsWith('packs/')) {
        met.resolve();
        await new Promise(() => undefined);
      }
      return proceed();
    };
    const handle = await start();
    await met.promise;

    await stopWorker();
    around = (_, proceed) => proceed();
    await startWorker();

    expect(await handle.result()).toMatchObject({ deleted: { packs: 1 } });
    expect([await count('packs/'), await count('index/'), await count('condemned/')]).toEqual([1, 1, 0]);
  });

  it('run twice at once deletes as one', async () => {
    await fill();

    const handles = await Promise.all([start(), start()]);
    const results = await Promise.all(handles.map((handle) => handle.result()));

    expect(results).toHaveLength(2);
    expect([await count('packs/'), await count('index/'), await count('condemned/')]).toEqual([1, 1, 0]);
  });
});

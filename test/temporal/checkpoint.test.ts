/* What `checkpoint` promises beyond the order of its steps. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import type { OperationProgress } from '../../core/contract/progress.ts';
import type { LockState } from '../../core/contract/lock.ts';
import { lockWorkflowId } from '../../core/ids.ts';
import { SEARCH_ATTRIBUTES } from '../../core/search-attributes.ts';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import { KybernateError } from '../../core/errors.ts';
import { OPERATION_TYPES } from '../../workflows/unknown-type.ts';
import '../harness/provided.ts';
import { fails, gate, onGpu, openHarness, outcomeOf, stepsOf, type Harness, type Script } from './harness.ts';
import { NODE, TIMEOUTS } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
});
afterAll(() => harness.close());

describe('checkpoint input', () => {
  it.concurrent('started by its type name with raw JSON completes', async () => {
    const handle = await harness.client.workflow.start('checkpoint', {
      workflowId: 'typed-in-the-ui',
      taskQueue: CONTROL_QUEUE,
      args: [JSON.parse('{"node":"node-a","container":{"id":"web"},"durability":"local"}')],
    });

    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({
      result: {
        checkpointId: expect.stringMatching(/^ck-\d{14}-[0-9a-f]{8}$/) as string,
        node: 'node-a',
        container: { namespace: 'default', id: 'web' },
        durability: 'local',
        source: 'running',
        freezeMs: 12,
        bytes: { total: 1000, stored: 0 },
        gpuProcesses: 0,
        warnings: ['plan', 'capture'],
      },
    });
  });

  it.concurrent.each([
    ['an unknown field', { node: NODE, container: { id: 'web' }, nodee: 'x' }, 'nodee'],
    ['a missing node', { container: { id: 'web' } }, 'node: '],
    ['a wrong container id', { node: NODE, container: { id: '../etc' } }, 'container.id: '],
    [
      'a number for a word',
      { node: NODE, container: { id: 'web' }, timeouts: { stepMs: 'long' } },
      'timeouts.stepMs: ',
    ],
    ['a text instead of an object', 'web', 'input: '],
    ['nothing at all', undefined, 'input: '],
  ])('with %s fails with InvalidInput naming it', async (title, input, path) => {
    const handle = await harness.client.workflow.start('checkpoint', {
      workflowId: `bad input: ${title}`,
      taskQueue: CONTROL_QUEUE,
      args: input === undefined ? [] : [input],
    });

    const outcome = await outcomeOf(handle);

    const { typedSearchAttributes } = await handle.describe();

    expect(outcome).toMatchObject({ type: 'InvalidInput', message: expect.stringContaining(path) as string });
    expect(await stepsOf(handle)).toEqual([]);
    expect(typedSearchAttributes.getAll().map(({ key, value }) => [key.name, value])).toContainEqual([
      SEARCH_ATTRIBUTES.outcome,
      'InvalidInput',
    ]);
  });

  it.concurrent('under a misspelt type fails with InvalidInput and names the types there are', async () => {
    const handle = await harness.client.workflow.start('checkpiont', {
      workflowId: 'misspelt',
      taskQueue: CONTROL_QUEUE,
      args: [{ node: NODE, container: { id: 'web' } }],
    });

    expect(await outcomeOf(handle)).toMatchObject({
      type: 'InvalidInput',
      message: `no workflow type "checkpiont" on task queue kybernate: it serves ${OPERATION_TYPES.join(', ')}`,
    });
  });

  it.concurrent('refuses more durability than a node without a sidecar can give, before the lock', async () => {
    const probeNode = async (_input: never, happy: () => Promise<unknown>): Promise<unknown> => {
      const { store: _store, ...rest } = (await happy()) as { store?: string };
      return rest;
    };

    const handle = await harness.checkpoint('no-store', { steps: { probeNode } });

    expect(await outcomeOf(handle)).toMatchObject({
      type: 'NodeUnavailable',
      message: expect.stringContaining('no sidecar serves node node-a: start `kybernate sidecar` there') as string,
    });
    expect(await stepsOf(handle)).toEqual(['probeNode']);
  });

  it.concurrent('finds a container by its place in a pod', async () => {
    const pod = { namespace: 'prod', name: 'web-0', container: 'server' };

    const handle = await harness.checkpoint('by-pod', {}, { container: { pod }, durability: 'local' });

    expect(await outcomeOf(handle)).toMatchObject({ result: { container: { id: 'pod-c' } } });
  });
});

describe('checkpoint durability', () => {
  it.concurrent.each([
    ['local', { stored: 0 }, []],
    ['remote', { stored: 700 }, ['uploadImage', 'publishManifest', 'confirmUpload']],
    ['verified', { stored: 700 }, ['uploadImage', 'publishManifest', 'confirmUpload', 'verifyRemote']],
  ] as const)('%s ends after its steps', async (durability, bytes, steps) => {
    const handle = await harness.checkpoint(`durability-${durability}`, {}, { durability });
    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({ result: { durability, bytes } });
    expect((await stepsOf(handle)).slice(-steps.length - 1)).toEqual(['commitLocal', ...steps]);
  });

  it.concurrent('retries the upload while the store is away, with the lock long released', async () => {
    const lock = lockWorkflowId({ node: NODE, namespace: 'default', id: 'store-away' });
    let states: LockState[] = [];
    let attempts = 0;
    const uploadImage = async (_input: never, happy: () => Promise<unknown>): Promise<unknown> => {
      attempts += 1;
      if (attempts < 3) {
        states = [...states, await harness.client.workflow.getHandle(lock).query<LockState>('state')];
        throw new KybernateError('StorageUnavailable', 'the store does not answer');
      }
      return happy();
    };

    const outcome = await outcomeOf(await harness.checkpoint('store-away', { steps: { uploadImage } }));

    expect(outcome).toMatchObject({ result: { durability: 'remote' } });
    expect(attempts).toBe(3);
    expect(states.map((state) => state.holder)).toEqual([undefined, undefined]);
  });

  it.concurrent("fails with the store's error when it stays away longer than uploadMs", async () => {
    const uploadImage = (): Promise<never> =>
      Promise.reject(new KybernateError('StorageUnavailable', 'the store does not answer'));

    const handle = await harness.checkpoint(
      'store-gone',
      { steps: { uploadImage } },
      { timeouts: { ...TIMEOUTS, uploadMs: 1500 } },
    );

    expect(await outcomeOf(handle)).toMatchObject({ type: 'StorageUnavailable' });
    expect((await stepsOf(handle)).at(-1)).toBe('uploadImage');
  });
});

describe('checkpoint with after: hold', () => {
  it.concurrent('keeps the source until the signal release', async () => {
    const handle = await harness.checkpoint('hold-signal', {}, { after: 'hold', durability: 'local' });
    await phaseReached(handle, 'holding');
    const held = await stepsOf(handle);

    await handle.signal('release');
    const outcome = await outcomeOf(handle);

    expect(held.at(-1)).toBe('commitLocal');
    expect(outcome).toMatchObject({ result: { source: 'running' } });
  });

  it.concurrent('lets the source go and keeps the checkpoint when it is cancelled', async () => {
    const handle = await harness.checkpoint('hold-cancel', {}, { after: 'hold' });
    await phaseReached(handle, 'holding');

    await handle.cancel();
    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({ type: 'Cancelled' });
    expect(await handle.query<OperationProgress>('progress')).toMatchObject({ phase: 'cancelled', committed: true });
    expect((await stepsOf(handle)).slice(-5)).toEqual([
      'commitLocal',
      'resumeContainer',
      'endOperation',
      'releaseLock',
      'abandonUpload',
    ]);
  });
});

describe('checkpoint of a container on a GPU', () => {
  it.concurrent('gives the options to the plan, and VRAM and pause to the result', async () => {
    const plans: unknown[] = [];
    const planCheckpoint = async (input: never, happy: () => Promise<unknown>): Promise<unknown> => {
      plans.push(input);
      return { ...((await happy()) as object), gpuProcesses: 1, vramBytes: 1_073_741_824 };
    };
    const captureContainer = async (_input: never, happy: () => Promise<unknown>): Promise<unknown> => {
      const captured = (await happy()) as { phases: object };
      return { ...captured, phases: { ...captured.phases, gpuPauseMs: 61 } };
    };
    const quiesce = { command: ['python3', '/app/quiesce.py'] };

    const handle = await harness.checkpoint('gpu', onGpu({ steps: { planCheckpoint, captureContainer } }), {
      gpu: { allowShared: true, quiesce },
    });
    const outcome = await outcomeOf(handle);
    const progress = await handle.query<OperationProgress>('progress');
    const { typedSearchAttributes } = await handle.describe();

    expect(plans).toMatchObject([
      {
        gpu: {
          allowShared: true,
          assumeSafe: false,
          lockTimeoutMs: 10_000,
          quiesce: { ...quiesce, timeoutMs: 30_000 },
        },
      },
    ]);
    expect(outcome).toMatchObject({
      result: { gpuProcesses: 1, vramBytes: 1_073_741_824, phases: { gpuPauseMs: 61 }, source: 'running' },
    });
    expect(progress.gpu).toEqual({ processes: 1, vramBytes: 1_073_741_824 });
    expect(typedSearchAttributes.getAll().map(({ key, value }) => [key.name, value])).toContainEqual([
      SEARCH_ATTRIBUTES.gpu,
      'yes',
    ]);
  });

  it.concurrent(
    'tells the pause of a held GPU up to its unlock, and what its way back could not put back',
    async () => {
      const resumeContainer = () =>
        Promise.resolve({ source: 'running', checks: {}, gpu: { pauseMs: 7000, parts: {}, warnings: ['limit'] } });
      const request = { after: 'hold', holdBudgetMs: 1, durability: 'local' } as const;

      const handle = await harness.checkpoint('gpu-hold', onGpu({ steps: { resumeContainer } }), request);

      expect(await outcomeOf(handle)).toMatchObject({
        result: { phases: { gpuPauseMs: 7000, freezeMs: 12 }, warnings: ['plan', 'capture', 'limit'] },
      });
    },
  );

  it.concurrent('tries the save again twice while the GPU is busy', async () => {
    const { script, calls } = busy(2);

    const outcome = await outcomeOf(await harness.checkpoint('gpu-busy', onGpu({ steps: { saveGpuState: script } })));

    expect(outcome).toMatchObject({ result: { source: 'running' } });
    expect(calls()).toBe(3);
  });

  it.concurrent('fails with GpuBusy and everything undone when the third try finds it busy too', async () => {
    const { script, calls } = busy(3);

    const handle = await harness.checkpoint('gpu-too-busy', onGpu({ steps: { saveGpuState: script } }));
    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({ type: 'GpuBusy', message: expect.stringContaining('scripted GpuBusy') as string });
    expect(calls()).toBe(3);
    expect((await stepsOf(handle)).slice(-5)).toEqual([
      'saveGpuState',
      'resumeContainer',
      'discardCapture',
      'endOperation',
      'releaseLock',
    ]);
  });
});

describe('checkpoint progress', () => {
  it.concurrent('is told by query, details and search attributes', async () => {
    const { script, open } = gate();
    const reached = harness.reached('progress', 'uploadImage');
    const handle = await harness.checkpoint('progress', { steps: { uploadImage: script } });
    await reached;

    await handle.signal('reportProgress', { phase: 'uploading', bytesDone: 5, bytesTotal: 10 });
    await handle.signal('reportProgress', { phase: 'capturing', bytesDone: 99 });
    const during = await handle.query<OperationProgress>('progress');
    open();
    await handle.result();
    const after = await handle.query<OperationProgress>('progress');
    const { typedSearchAttributes } = await handle.describe();

    expect(during).toMatchObject({ phase: 'uploading', bytesDone: 5, bytesTotal: 10, container: 'default/progress' });
    expect(after).toMatchObject({ phase: 'done', outcome: 'Completed' });
    expect(after.finished.map(({ phase }) => phase)).toEqual([
      'probing',
      'locking',
      'planning',
      'starting-runner',
      'capturing',
      'resuming',
      'committing',
      'uploading',
      'publishing',
    ]);
    expect(Object.fromEntries(typedSearchAttributes.getAll().map(({ key, value }) => [key.name, value]))).toMatchObject(
      {
        [SEARCH_ATTRIBUTES.node]: NODE,
        [SEARCH_ATTRIBUTES.container]: 'default/progress',
        [SEARCH_ATTRIBUTES.checkpointId]: 'ck-progress',
        [SEARCH_ATTRIBUTES.phase]: 'done',
        [SEARCH_ATTRIBUTES.gpu]: 'no',
        [SEARCH_ATTRIBUTES.outcome]: 'Completed',
      },
    );
  });

  it.concurrent('names the error of a failed operation', async () => {
    const handle = await harness.checkpoint('progress-failed', { steps: { planCheckpoint: fails('Incompatible') } });
    await outcomeOf(handle);

    expect(await handle.query<OperationProgress>('progress')).toMatchObject({
      phase: 'failed',
      outcome: 'Incompatible',
      lastError: 'Incompatible: scripted Incompatible',
    });
  });
});

async function phaseReached(handle: { query<T>(name: string): Promise<T> }, phase: string): Promise<void> {
  await expect
    .poll(async () => (await handle.query<OperationProgress>('progress')).phase, { timeout: 20_000, interval: 100 })
    .toBe(phase);
}

/** A save whose first `times` tries run into the lock timeout. */
function busy(times: number): { script: Script; calls: () => number } {
  let calls = 0;
  const saved = { gpuProcesses: 1, vramBytes: 1, durationMs: 1, parts: {} };
  return {
    calls: () => calls,
    script: () => {
      calls += 1;
      return calls <= times
        ? Promise.reject(new KybernateError('GpuBusy', 'scripted GpuBusy'))
        : Promise.resolve(saved);
    },
  };
}

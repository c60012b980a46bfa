/* `checkpoint` when its undo fails, or its node is not there. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import type { ResumeResult } from '../../core/contract/checkpoint.ts';
import { nodeControlQueue, nodeQueue } from '../../core/task-queues.ts';
import '../harness/provided.ts';
import {
  fails,
  nodeQueues,
  once,
  openHarness,
  outcomeOf,
  silent,
  stepsOf,
  untilCancelled,
  type Harness,
} from './harness.ts';
import { NODE, TIMEOUTS } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
});
afterAll(() => harness.close());

describe('checkpoint whose undo fails', () => {
  it.concurrent('keeps the capture and says Poisoned when the source does not come back', async () => {
    const steps = { captureContainer: fails('DumpFailed'), resumeContainer: fails('Poisoned') };

    const handle = await harness.checkpoint('poisoned', { steps });
    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({
      type: 'Poisoned',
      details: { left: ['resumeContainer', 'discardCapture', 'endOperation'], original: 'scripted DumpFailed' },
    });
    expect((await stepsOf(handle)).slice(-3)).toEqual(['captureContainer', 'resumeContainer', 'releaseLock']);
  });

  it.concurrent('says Poisoned when the source runs again but its health command fails', async () => {
    const health = { healthy: false, tookMs: 5, exitCode: 1, output: 'no answer' };
    const resumeContainer = (): Promise<ResumeResult> => Promise.resolve({ source: 'running', checks: {}, health });
    const steps = { captureContainer: fails('DumpFailed'), resumeContainer };

    const handle = await harness.checkpoint('unhealthy', { steps });

    expect(await outcomeOf(handle)).toMatchObject({
      type: 'Poisoned',
      message: expect.stringMatching(/its health command fails: no answer/) as string,
      details: { failed: [{ name: 'resumeContainer', seen: { rollback: { source: 'running', health } } }] },
    });
  });

  it.concurrent('ends well with a warning when the health command fails after a checkpoint', async () => {
    const health = { healthy: false, tookMs: 5, exitCode: 1, output: '' };
    const resumeContainer = (): Promise<ResumeResult> => Promise.resolve({ source: 'running', checks: {}, health });

    const handle = await harness.checkpoint('unhealthy-after', { steps: { resumeContainer } });

    expect((await handle.result()).warnings).toContain(
      'the health command of the source fails after its checkpoint: exit code 1',
    );
  });

  it.concurrent('says CompensationFailed with what is left, and tries the rest', async () => {
    const steps = { captureContainer: fails('DumpFailed'), discardCapture: fails('DiskFull') };

    const handle = await harness.checkpoint('undo-fails', { steps });
    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({
      type: 'CompensationFailed',
      details: { node: NODE, left: ['discardCapture'], failed: [{ name: 'discardCapture', type: 'DiskFull' }] },
    });
    expect((await stepsOf(handle)).slice(-2)).toEqual(['endOperation', 'releaseLock']);
  });

  it.concurrent('is not a cancellation any more when the undo of a cancelled step fails', async () => {
    const steps = { captureContainer: once(untilCancelled), resumeContainer: fails('Poisoned') };
    const reached = harness.reached('cancel-poisoned', 'captureContainer');

    const handle = await harness.checkpoint('cancel-poisoned', { steps });
    await reached;
    await handle.cancel();

    expect(await outcomeOf(handle)).toMatchObject({ type: 'Poisoned' });
  });
});

describe('checkpoint of a container with a liveness probe', () => {
  it.concurrent(
    'fails with Incompatible before any step when the probe allows less than the freeze budget',
    async () => {
      const handle = await harness.checkpoint('liveness', {}, { livenessProbe: {}, freezeBudgetMs: 60_000 });

      expect(await outcomeOf(handle)).toMatchObject({
        type: 'Incompatible',
        message: expect.stringMatching(/allows 21000 ms.*freeze budget is 60000 ms.*was not touched/) as string,
        details: { findings: [{ code: 'liveness-probe' }] },
      });
      expect(await stepsOf(handle)).toEqual([]);
    },
  );

  it.concurrent('plans with a budget that the probe allows when none was given', async () => {
    const planned = Promise.withResolvers<unknown>();
    const planCheckpoint = async (input: { freezeBudgetMs: number }, happy: () => Promise<unknown>) => {
      planned.resolve(input.freezeBudgetMs);
      return happy();
    };

    const handle = await harness.checkpoint('liveness-default', { steps: { planCheckpoint } }, { livenessProbe: {} });
    await handle.result();

    expect(await planned.promise).toBe(20_000);
  });

  it.concurrent('is told by a preflight what it would fail with, and nothing where it would not', async () => {
    const ask = async (id: string, livenessProbe?: object): Promise<unknown> => {
      const request = { node: NODE, container: { id }, freezeBudgetMs: 60_000, livenessProbe };
      return (await harness.start('preflight', id, {}, request)).result();
    };

    expect(await ask('liveness-short', {})).toMatchObject({
      fits: false,
      findings: [{ code: 'liveness-probe', severity: 'error', message: expect.stringMatching(/21000 ms/) as string }],
    });
    expect(await ask('liveness-long', { failureThreshold: 30 })).toMatchObject({ fits: true, findings: [] });
    expect(await ask('liveness-none')).toMatchObject({ fits: true, findings: [] });
  });
});

describe('checkpoint on a node without a worker', () => {
  it.concurrent('fails with NodeUnavailable within nodePickupMs', async () => {
    const startedMs = performance.now();

    const handle = await harness.checkpoint('no-worker', {}, { node: 'node-gone', timeouts: { nodePickupMs: 1000 } });
    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({
      type: 'NodeUnavailable',
      message: 'the worker of node node-gone did not take the step probeNode',
      details: { node: 'node-gone' },
    });
    expect(performance.now() - startedMs).toBeLessThan(8000);
    expect(await stepsOf(handle)).toEqual(['probeNode']);
  });

  it.concurrent('fails with Incompatible when the worker speaks another protocol', async () => {
    const probeNode = async (_input: never, happy: () => Promise<unknown>): Promise<unknown> => ({
      ...((await happy()) as object),
      protocolVersion: 99,
    });

    const outcome = await outcomeOf(await harness.checkpoint('protocol', { steps: { probeNode } }));

    expect(outcome).toMatchObject({ type: 'Incompatible' });
  });

  it.concurrent('says what is left to the reconciler when the node goes away in the capture', async () => {
    const stop = await harness.serve(nodeQueues('node-lost'));
    const reached = harness.reached('node-lost', 'captureContainer');
    const timeouts = { ...TIMEOUTS, nodePickupMs: 1000 };

    const handle = await harness.checkpoint(
      'node-lost',
      { steps: { captureContainer: silent } },
      { node: 'node-lost', timeouts },
    );
    await reached;
    await stop();
    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({
      type: 'NodeUnavailable',
      details: { node: 'node-lost', left: ['resumeContainer', 'discardCapture', 'endOperation'] },
    });
    expect((await stepsOf(handle)).slice(-4)).toEqual([
      'captureContainer',
      'probeNode',
      'resumeContainer',
      'releaseLock',
    ]);
  });

  it.concurrent('waits for a slot as long as the node answers on its control queue', async () => {
    const stopControl = await harness.serve([nodeControlQueue('node-busy')]);
    let probes = 0;
    let stopWork: (() => Promise<void>) | undefined;
    const probeNode = async (_input: never, happy: () => Promise<unknown>): Promise<unknown> => {
      probes += 1;
      if (probes === 3) {
        stopWork = await harness.serve([nodeQueue('node-busy')]);
      }
      return happy();
    };
    const timeouts = { ...TIMEOUTS, nodePickupMs: 1000 };

    const handle = await harness.checkpoint(
      'node-busy',
      { steps: { probeNode } },
      { node: 'node-busy', timeouts, durability: 'local' },
    );
    const outcome = await outcomeOf(handle);
    await Promise.all([stopControl(), stopWork?.()]);

    expect(outcome).toMatchObject({ result: { durability: 'local' } });
    expect(probes).toBe(3);
  });

  it.concurrent('fails with NodeUnavailable when the worker falls silent in a step', async () => {
    const timeouts = { ...TIMEOUTS, heartbeatMs: 300 };

    const outcome = await outcomeOf(
      await harness.checkpoint('silent', { steps: { captureContainer: silent } }, { timeouts }),
    );

    expect(outcome).toMatchObject({ type: 'NodeUnavailable', details: { step: 'captureContainer' } });
  });
});

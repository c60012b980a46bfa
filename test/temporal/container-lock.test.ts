/* Operations on one container wait for each other; the fencing token orders them. */
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import type { StepInput } from '../../activities/contract.ts';
import type { LockState } from '../../core/contract/lock.ts';
import { lockWorkflowId } from '../../core/ids.ts';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import '../harness/provided.ts';
import { fails, gate, openHarness, outcomeOf, stepsOf, type Harness, type Script } from './harness.ts';
import { NODE, TIMEOUTS } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal'), lock: { idleMs: 1500, holderCheckMs: 500 } });
});
afterAll(() => harness.close());

const lockOf = (id: string): WorkflowHandle =>
  harness.client.workflow.getHandle(lockWorkflowId({ node: NODE, namespace: 'default', id }));
const stateOf = (id: string): Promise<LockState> => lockOf(id).query<LockState>('state');

/** Starts a checkpoint of the container that stops inside its capture until the gate opens. */
async function holder(
  container: string,
  name: string,
): Promise<{ handle: WorkflowHandle; open: () => void; tokens: number[] }> {
  const { script, open } = gate();
  const tokens: number[] = [];
  const planCheckpoint: Script = (input: StepInput, happy) => {
    tokens.push(input.context.token);
    return script(input as never, happy);
  };
  const reached = harness.reached(name, 'planCheckpoint');
  const request = { container: { id: container }, durability: 'local' } as const;
  const handle = await harness.checkpoint(name, { steps: { planCheckpoint } }, request);
  await reached;
  return { handle, open, tokens };
}

const POLL = { timeout: 20_000, interval: 50 };

async function waitingFor(container: string): Promise<string[]> {
  return (await stateOf(container)).waiting.map((request) => request.holder.workflowId);
}

/** Starts another checkpoint of the container and waits until the lock knows of it. */
async function waiter(container: string, name: string): Promise<{ handle: WorkflowHandle; tokens: number[] }> {
  const tokens: number[] = [];
  const planCheckpoint: Script = (input: StepInput, happy) => {
    tokens.push(input.context.token);
    return happy();
  };
  const request = { container: { id: container }, durability: 'local' } as const;
  const handle = await harness.checkpoint(name, { steps: { planCheckpoint } }, request);
  await expect.poll(() => waitingFor(container), POLL).toContain(name);
  return { handle, tokens };
}

describe('containerLock', () => {
  it.concurrent('lets two operations on one container run one after the other, with rising tokens', async () => {
    const first = await holder('shared', 'shared-first');
    const second = await waiter('shared', 'shared-second');
    const stepsWhileWaiting = await stepsOf(second.handle);

    first.open();
    await first.handle.result();
    await second.handle.result();

    expect(stepsWhileWaiting).toEqual(['probeNode', 'requestLock']);
    expect(first.tokens).toEqual([1]);
    expect(second.tokens).toEqual([2]);
  });

  it.concurrent('is free when an operation has failed', async () => {
    const steps = { planCheckpoint: fails('Incompatible') };
    await outcomeOf(await harness.checkpoint('failing', { steps }));

    expect(await stateOf('failing')).toEqual({ waiting: [], lastToken: 1 });
  });

  it.concurrent('grants a token above the newest that the node has seen', async () => {
    const tokens: number[] = [];
    const steps = {
      probeNode: async (_input: never, happy: () => Promise<unknown>) => ({
        ...((await happy()) as object),
        newestToken: 41,
      }),
      planCheckpoint: (input: StepInput, happy: () => Promise<unknown>) => {
        tokens.push(input.context.token);
        return happy();
      },
    };

    await (await harness.checkpoint('seen', { steps }, { durability: 'local' })).result();

    expect(tokens).toEqual([42]);
  });

  it.concurrent('is freed when its holder ended without letting go', async () => {
    const first = await holder('dead', 'dead-first');
    await first.handle.terminate('as a crash would');

    const second = await harness.checkpoint('dead-second', {}, { container: { id: 'dead' }, durability: 'local' });
    const outcome = await outcomeOf(second);
    first.open();

    expect(outcome).toMatchObject({ result: { source: 'running' } });
  });

  it.concurrent('stays with a holder that lives, however long it takes', async () => {
    const first = await holder('slow', 'slow-first');
    const second = await waiter('slow', 'slow-second');
    await checks('slow', 2);

    const state = await stateOf('slow');
    first.open();
    await Promise.all([first.handle.result(), second.handle.result()]);

    expect(state).toMatchObject({ holder: { workflowId: 'slow-first', token: 1 }, lastToken: 1 });
  });

  it.concurrent('forgets a request that is cancelled while waiting', async () => {
    const first = await holder('queue', 'queue-first');
    const second = await waiter('queue', 'queue-second');
    const third = await waiter('queue', 'queue-third');

    await second.handle.cancel();
    const outcome = await outcomeOf(second.handle);
    await expect.poll(() => waitingFor('queue'), POLL).toEqual(['queue-third']);
    first.open();
    await third.handle.result();

    expect(outcome).toMatchObject({ type: 'Cancelled' });
    expect(await stepsOf(second.handle)).toEqual(['probeNode', 'requestLock', 'releaseLock']);
    expect(third.tokens).toEqual([2]);
  });

  it.concurrent('makes a waiting operation give up after lockWaitMs, untouched', async () => {
    const first = await holder('impatient', 'impatient-first');

    const second = await harness.checkpoint(
      'impatient-second',
      {},
      {
        container: { id: 'impatient' },
        timeouts: { ...TIMEOUTS, lockWaitMs: 300 },
      },
    );
    const outcome = await outcomeOf(second);
    first.open();
    await first.handle.result();

    expect(outcome).toMatchObject({
      type: 'LockLost',
      message: expect.stringContaining('nothing was touched') as string,
    });
    expect(await stepsOf(second)).toEqual(['probeNode', 'requestLock', 'releaseLock']);
  });

  it.concurrent('passes on a grant whose requester is gone', async () => {
    const lock = lockOf('stranger');
    const gone = {
      holder: { workflowId: 'never-started', runId: 'a0000000-0000-4000-8000-000000000000' },
      operation: 'x',
      minToken: 7,
    };
    await harness.client.workflow.signalWithStart('containerLock', {
      workflowId: lock.workflowId,
      taskQueue: CONTROL_QUEUE,
      args: [{ idleMs: 500 }],
      signal: 'requestLock',
      signalArgs: [gone],
    });

    const state = await lock.result();

    expect(state).toEqual({ waiting: [], lastToken: 8 });
  });

  it.concurrent('ends when nobody has wanted it for a while', async () => {
    await (await harness.checkpoint('idle', {}, { durability: 'local' })).result();

    expect(await lockOf('idle').result()).toEqual({ waiting: [], lastToken: 1 });
  });
});

/** Waits until the lock has looked at its holder so often. */
async function checks(container: string, count: number): Promise<void> {
  await expect
    .poll(async () => (await stepsOf(lockOf(container))).filter((step) => step === 'isRunClosed').length, {
      timeout: 20_000,
      interval: 100,
    })
    .toBeGreaterThanOrEqual(count);
}

/* The workflows `verifyCheckpoint`, `repairCheckpoint` and `listCopies`: which steps follow from which copies, and what they end with. */
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import type { PlaceReport, RepairRequest, VerifyRequest } from '../../core/contract/verify.ts';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import '../harness/provided.ts';
import { wholeCopy } from './happy.ts';
import {
  fails,
  openHarness,
  outcomeOf,
  stepsOf,
  untilCancelled,
  type Harness,
  type Scenario,
  type Script,
} from './harness.ts';
import { NODE, TIMEOUTS } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
});
afterAll(() => harness.close());

const STORE = wholeCopy('store', 's3://bucket');
const HERE = wholeCopy('node', '/checkpoints/checkpoint-ck-1');

function damaged(copy: PlaceReport, pack = 'ab'.repeat(16)): PlaceReport {
  const problem = { kind: 'damaged', message: 'chunk 3 of criu/pages-1.img is damaged', pack } as const;
  return { ...copy, ok: false, problems: [problem], problemCount: 1 };
}

function absent(copy: PlaceReport): PlaceReport {
  return { ...copy, found: false, ok: false, files: 0, bytes: 0 };
}

/** Answers with one report after the other, the last one again and again. */
function reports(...copies: readonly PlaceReport[]): Script {
  let calls = 0;
  return () => {
    calls += 1;
    return Promise.resolve(copies[Math.min(calls, copies.length) - 1]);
  };
}

function start(type: string, id: string, steps: Scenario['steps'], request: object): Promise<WorkflowHandle> {
  harness.script(id, { steps: steps ?? {} });
  const args = [{ checkpointId: 'ck-1', node: NODE, timeouts: TIMEOUTS, ...request }];
  return harness.client.workflow.start(type, { workflowId: id, taskQueue: CONTROL_QUEUE, args });
}

function verify(
  id: string,
  steps: Scenario['steps'] = {},
  request: Partial<VerifyRequest> = {},
): Promise<WorkflowHandle> {
  return start('verifyCheckpoint', id, steps, request);
}

function repair(
  id: string,
  steps: Scenario['steps'] = {},
  request: Partial<RepairRequest> = {},
): Promise<WorkflowHandle> {
  return start('repairCheckpoint', id, steps, request);
}

async function searchAttribute(handle: WorkflowHandle, name: string): Promise<unknown> {
  const { typedSearchAttributes } = await handle.describe();
  return typedSearchAttributes.getAll().find(({ key }) => key.name === name)?.value;
}

describe('verifyCheckpoint', () => {
  it.concurrent('looks at both copies and tells what it found', async () => {
    const handle = await verify('verify-both');

    expect(await outcomeOf(handle)).toMatchObject({
      result: {
        checkpointId: 'ck-1',
        node: NODE,
        mode: 'quick',
        ok: true,
        places: [{ place: 'store' }, { place: 'node' }],
      },
    });
    expect(await stepsOf(handle)).toEqual(['surveyStored', 'surveyNodeCopy']);
    expect(await searchAttribute(handle, 'KybernateOutcome')).toBe('Completed');
  });

  it.concurrent('completes with what is damaged, and is found by it', async () => {
    const handle = await verify('verify-damaged', { surveyStored: reports(damaged(STORE)) }, { mode: 'full' });

    expect(await outcomeOf(handle)).toMatchObject({
      result: { mode: 'full', ok: false, places: [{ ok: false, problems: [{ kind: 'damaged' }] }, { ok: true }] },
    });
    expect(await searchAttribute(handle, 'KybernateOutcome')).toBe('CheckpointCorrupt');
  });

  it.concurrent.each([
    ['store', ['surveyStored']],
    ['node', ['surveyNodeCopy']],
  ] as const)('looks only at the %s when asked to', async (where, steps) => {
    const handle = await verify(`verify-only-${where}`, {}, { where });

    await outcomeOf(handle);
    expect(await stepsOf(handle)).toEqual(steps);
  });

  it.concurrent('takes one copy for enough, unless the missing one was asked for', async () => {
    const steps = { surveyNodeCopy: reports(absent(HERE)) };

    expect(await outcomeOf(await verify('verify-one', steps))).toMatchObject({ result: { ok: true } });
    expect(await outcomeOf(await verify('verify-none', steps, { where: 'node' }))).toMatchObject({
      type: 'CheckpointNotFound',
    });
  });

  it.concurrent('fails when no copy is there, naming the places', async () => {
    const steps = { surveyStored: reports(absent(STORE)), surveyNodeCopy: reports(absent(HERE)) };

    expect(await outcomeOf(await verify('verify-nowhere', steps))).toMatchObject({
      type: 'CheckpointNotFound',
      message: expect.stringMatching(/s3:\/\/bucket nor in \/checkpoints/) as string,
    });
  });

  it.concurrent('fails as the store does, and stops when it is cancelled', async () => {
    const denied = await verify('verify-denied', { surveyStored: fails('StorageDenied') });
    const reached = harness.reached('verify-cancelled', 'surveyNodeCopy');
    const cancelled = await verify('verify-cancelled', { surveyNodeCopy: untilCancelled });
    await reached;
    await cancelled.cancel();

    expect(await outcomeOf(denied)).toMatchObject({ type: 'StorageDenied' });
    expect(await outcomeOf(cancelled)).toMatchObject({ type: 'Cancelled' });
  });

  it.concurrent('refuses bad input', async () => {
    expect(await outcomeOf(await verify('verify-bad', {}, { mode: 'some' as never, node: 'A B' }))).toMatchObject({
      type: 'InvalidInput',
      message: expect.stringMatching(/node: .*mode: /) as string,
    });
  });
});

describe('repairCheckpoint', () => {
  it.concurrent('leaves whole copies alone', async () => {
    const handle = await repair('repair-whole');

    expect(await outcomeOf(handle)).toMatchObject({ result: { before: [{ ok: true }, { ok: true }] } });
    expect(await stepsOf(handle)).toEqual(['surveyStored', 'surveyNodeCopy']);
  });

  it.concurrent.each([
    ['the store from the node', { surveyStored: reports(damaged(STORE), STORE) }, ['repairStored', 'confirmUpload']],
    ['the node from the store', { surveyNodeCopy: reports(damaged(HERE), HERE) }, ['repairNodeCopy']],
    [
      'the store first, from what is whole on the node, then the node',
      { surveyStored: reports(damaged(STORE), STORE), surveyNodeCopy: reports(damaged(HERE), HERE) },
      ['repairStored', 'confirmUpload', 'repairNodeCopy'],
    ],
  ])('repairs %s, and looks again', async (what, steps, done) => {
    const handle = await repair(`repair ${what}`, steps);

    expect(await outcomeOf(handle)).toMatchObject({ result: { after: [{ ok: true }, { ok: true }] } });
    expect(await stepsOf(handle)).toEqual([
      'surveyStored',
      'surveyNodeCopy',
      ...done,
      'surveyStored',
      'surveyNodeCopy',
    ]);
  });

  it.concurrent('goes on when the repair met another damaged pack, and adds up what it did', async () => {
    const steps = {
      surveyStored: reports(damaged(STORE), damaged(STORE, 'cd'.repeat(16)), STORE),
      repairStored: ((input, happy) => happy()) as Script,
    };

    expect(await outcomeOf(await repair('repair-again', steps))).toMatchObject({
      result: { store: { newChunks: 2, sentBytes: 200 }, after: [{ ok: true }, { ok: true }] },
    });
  });

  it.concurrent('gives up after three rounds', async () => {
    const handle = await repair('repair-endless', { surveyStored: reports(damaged(STORE)) });

    expect(await outcomeOf(handle)).toMatchObject({ type: 'CheckpointCorrupt' });
    expect((await stepsOf(handle)).filter((step) => step === 'repairStored')).toHaveLength(3);
  });

  it.concurrent('names what is lost when the other copy does not have it', async () => {
    const nobody = { surveyStored: reports(damaged(STORE)), surveyNodeCopy: reports(absent(HERE)) };
    const twice = {
      surveyStored: reports(damaged(STORE)),
      surveyNodeCopy: reports(damaged(HERE)),
      repairStored: fails('CheckpointCorrupt'),
    };

    const first = await outcomeOf(await repair('repair-nobody', nobody));
    const second = await outcomeOf(await repair('repair-twice', twice));

    expect(first).toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringContaining('chunk 3 of criu/pages-1.img') as string,
    });
    expect(second).toMatchObject({
      type: 'CheckpointCorrupt',
      details: { places: [{ place: 'store' }, { place: 'node' }] },
    });
  });

  it.concurrent('repairs no place that was not named, and fills the one that was', async () => {
    const onlyNode = await repair('repair-only-node', { surveyStored: reports(damaged(STORE)) }, { where: 'node' });
    const filled = await repair('repair-fill', { surveyNodeCopy: reports(absent(HERE), HERE) }, { where: 'node' });
    const left = await repair('repair-left', { surveyNodeCopy: reports(absent(HERE)) });
    await Promise.all([outcomeOf(onlyNode), outcomeOf(filled), outcomeOf(left)]);

    expect(await stepsOf(onlyNode)).toEqual(['surveyStored', 'surveyNodeCopy']);
    expect(await stepsOf(filled)).toContain('repairNodeCopy');
    expect(await stepsOf(left)).toEqual(['surveyStored', 'surveyNodeCopy']);
  });
});

describe('listCopies', () => {
  async function list(id: string, steps: Scenario['steps'], node = NODE): Promise<WorkflowHandle> {
    harness.script(id, { steps: steps ?? {} });
    const args = [{ node, limit: 5, timeouts: { ...TIMEOUTS, nodePickupMs: 2000 } }];
    return harness.client.workflow.start('listCopies', { workflowId: id, taskQueue: CONTROL_QUEUE, args });
  }

  it.concurrent('answers with what the node has, in one step', async () => {
    const damaged = [{ checkpointId: 'ck-1', reason: 'no JSON' }];
    const listCopies: Script = (input: object) => Promise.resolve({ ...input, copies: [], more: 2, damaged });
    const handle = await list('list-copies', { listCopies });

    expect(await outcomeOf(handle)).toEqual({ result: { node: NODE, limit: 5, copies: [], more: 2, damaged } });
    expect(await stepsOf(handle)).toEqual(['listCopies']);
  });

  it.concurrent('is NodeUnavailable when no worker takes it', async () => {
    const handle = await list('list-copies-gone', {}, 'node-gone');

    expect(await outcomeOf(handle)).toMatchObject({
      type: 'NodeUnavailable',
      message: expect.stringContaining('node-gone') as string,
    });
  });
});

import { ActivityFailure, ApplicationFailure, CancelledFailure, TimeoutFailure } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import * as z from 'zod';
import { asFailure, isPickupTimeout, outcomeOf, parseOrFail } from './failures.ts';

const step = (cause: Error, name = 'captureContainer'): ActivityFailure =>
  new ActivityFailure('activity failed', name, '1', 'NON_RETRYABLE_FAILURE', undefined, cause);
type Kind = 'SCHEDULE_TO_START' | 'START_TO_CLOSE' | 'HEARTBEAT' | 'SCHEDULE_TO_CLOSE';
const timeout = (kind: Kind, last?: Error, name?: string): ActivityFailure => {
  const failure = new TimeoutFailure(`timeout ${kind}`, undefined, kind);
  return step(last === undefined ? failure : Object.assign(failure, { cause: last }), name);
};
const dumpFailed = ApplicationFailure.nonRetryable('no', 'DumpFailed', { log: 'x' });
const failedUndo = (name: string, error: Error) => ({
  done: [],
  results: {},
  skipped: [],
  failed: [{ name, message: 'm', error }],
});

describe('asFailure', () => {
  it.each([
    ['the type of a failed step', step(dumpFailed), 'DumpFailed'],
    ['NodeUnavailable for a step that nobody took', timeout('SCHEDULE_TO_START'), 'NodeUnavailable'],
    ['NodeUnavailable for a worker that fell silent', timeout('HEARTBEAT'), 'NodeUnavailable'],
    ['NodeUnavailable for attempts that all fell silent', timeout('SCHEDULE_TO_CLOSE'), 'NodeUnavailable'],
    [
      'NodeUnavailable for a probe without an answer',
      timeout('START_TO_CLOSE', undefined, 'probeNode'),
      'NodeUnavailable',
    ],
    ['Internal for a step that works and does not end', timeout('START_TO_CLOSE'), 'Internal'],
    ['Internal for a step of no node', timeout('SCHEDULE_TO_CLOSE', undefined, 'findCheckpoint'), 'Internal'],
    [
      'the last error of retries that ran out of time',
      timeout('SCHEDULE_TO_CLOSE', ApplicationFailure.retryable('away', 'StorageUnavailable')),
      'StorageUnavailable',
    ],
    ['Internal for a step with a foreign error', step(new Error('odd')), 'Internal'],
  ])('is %s', (_title, error, type) => {
    expect(asFailure(error, 'node-a')).toMatchObject({ type, nonRetryable: true });
  });

  it('keeps a cancellation and a bug as they are', () => {
    const bug = new TypeError('bug');

    expect(asFailure(step(new CancelledFailure('c')), 'node-a')).toBeInstanceOf(ActivityFailure);
    expect(asFailure(bug, 'node-a')).toBe(bug);
  });

  it('keeps the details of the step', () => {
    expect(asFailure(step(dumpFailed), 'node-a')).toMatchObject({ message: 'no', details: [{ log: 'x' }] });
  });
});

describe('outcomeOf', () => {
  it('is the original error after a complete undo', () => {
    expect(outcomeOf(step(dumpFailed), { done: ['a'], results: {}, failed: [], skipped: [] }, 'node-a')).toMatchObject({
      type: 'DumpFailed',
    });
  });

  it('tells what the undo has read back of the source', () => {
    const results = { resumeContainer: { source: 'running', checks: { freezerThawed: true } } };
    const report = { done: ['resumeContainer'], results, failed: [], skipped: [] };

    expect(outcomeOf(step(dumpFailed), report, 'node-a')).toMatchObject({
      type: 'DumpFailed',
      message: 'no',
      nonRetryable: true,
      details: [{ log: 'x', rollback: results.resumeContainer }],
    });
  });

  it('tells what was seen of a workload that did not come back', () => {
    const poisoned = ApplicationFailure.nonRetryable('frozen', 'Poisoned', { checks: { freezerThawed: false } });

    expect(outcomeOf(step(dumpFailed), failedUndo('resumeContainer', step(poisoned)), 'node-a')).toMatchObject({
      type: 'Poisoned',
      details: [{ failed: [{ name: 'resumeContainer', seen: { checks: { freezerThawed: false } } }] }],
    });
  });

  it.each([
    ['Poisoned', ApplicationFailure.nonRetryable('frozen', 'Poisoned')],
    ['CompensationFailed', ApplicationFailure.nonRetryable('disk', 'DiskFull')],
  ])('is %s when the undo says so', (type, cause) => {
    expect(outcomeOf(step(dumpFailed), failedUndo('resumeContainer', step(cause)), 'node-a')).toMatchObject({
      type,
      details: [{ node: 'node-a', left: ['resumeContainer'], original: 'no' }],
    });
  });

  it('is NodeUnavailable, not CompensationFailed, when the node is gone', () => {
    const report = failedUndo('resumeContainer', timeout('SCHEDULE_TO_START'));

    expect(outcomeOf(timeout('HEARTBEAT'), report, 'node-a')).toMatchObject({ type: 'NodeUnavailable' });
  });
});

describe('isPickupTimeout', () => {
  it('is true only for a step that nobody took', () => {
    expect(isPickupTimeout(timeout('SCHEDULE_TO_START'))).toBe(true);
    expect(isPickupTimeout(timeout('HEARTBEAT'))).toBe(false);
    expect(isPickupTimeout(step(dumpFailed))).toBe(false);
  });
});

describe('parseOrFail', () => {
  it('fails with InvalidInput naming the field', () => {
    expect(() => parseOrFail(z.object({ node: z.string() }), {})).toThrow(
      expect.objectContaining({ type: 'InvalidInput', nonRetryable: true, message: expect.stringContaining('node: ') }),
    );
  });
});

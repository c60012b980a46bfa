import { describe, expect, it, test } from 'vitest';
import { timeoutsWithDefaults } from '../core/contract/common.ts';
import { CONTROL_QUEUE, fetchQueue } from '../core/task-queues.ts';
import { OPTION_CLASSES, lockOptions } from './proxies.ts';

const scope = { node: 'node-a', timeouts: timeoutsWithDefaults.parse(undefined), summary: 'web on node-a' };
const classes = Object.entries(OPTION_CLASSES).map(([name, make]) => [name, make(scope)] as const);

/** Our options are numbers of milliseconds throughout. */
function ms(duration: unknown): number {
  return typeof duration === 'number' ? duration : Number.POSITIVE_INFINITY;
}

describe('options of the lock request', () => {
  it('bound it to less than the workflow task may be stretched', () => {
    const options = lockOptions(scope);

    expect(ms(options.startToCloseTimeout)).toBeLessThanOrEqual(10_000);
    expect(ms(options.scheduleToCloseTimeout)).toBeLessThanOrEqual(60_000);
  });
});

describe.each(classes)('option class %s', (_name, options) => {
  it('bounds every attempt and all attempts together', () => {
    const attempts = options.retry?.maximumAttempts;

    expect(ms(options.startToCloseTimeout)).toBeLessThan(Number.POSITIVE_INFINITY);
    expect(attempts !== undefined || ms(options.scheduleToCloseTimeout) < Number.POSITIVE_INFINITY).toBe(true);
  });

  it('has a heartbeat where an attempt may take longer than 30 s', () => {
    const needed = ms(options.startToCloseTimeout) > 30_000;

    expect(options.heartbeatTimeout === undefined).toBe(!needed);
  });

  it('does not wait for ever for a node', () => {
    const onNode = options.taskQueue !== CONTROL_QUEUE;

    expect(options.scheduleToStartTimeout === undefined).toBe(!onNode);
  });

  it('retries no error that cannot get better', () => {
    expect(options.retry?.nonRetryableErrorTypes).toEqual(expect.arrayContaining(['InvalidInput', 'Poisoned']));
    expect(options.retry?.nonRetryableErrorTypes).not.toContain('StorageUnavailable');
  });

  it('waits for a cancelled step to end, so that its undo does not overtake it', () => {
    expect(options.cancellationType).toBe('WAIT_CANCELLATION_COMPLETED');
    expect(options.summary).toBe('web on node-a');
  });
});

test('what a restore fetches waits behind nobody who reads copies to see whether they are whole', () => {
  const onFetchQueue = classes.filter(([, { taskQueue }]) => taskQueue === fetchQueue(scope.node));

  expect(onFetchQueue.map(([name]) => name)).toEqual(['fetch']);
});

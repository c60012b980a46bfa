import { describe, expect, it } from 'vitest';
import { forEachLimit } from './limit.ts';

const never = new AbortController().signal;

describe('forEachLimit', () => {
  it('runs at most `limit` calls at once, and all of them', async () => {
    let running = 0;
    let most = 0;
    const done: number[] = [];

    await forEachLimit([0, 1, 2, 3, 4, 5, 6], 3, never, async (item) => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      done.push(item);
    });

    expect(most).toBe(3);
    expect(done.sort((left, right) => left - right)).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  it('throws the first failure after the running calls have ended, and starts no other', async () => {
    const started: number[] = [];
    const ended: number[] = [];

    const outcome = forEachLimit([0, 1, 2, 3], 2, never, async (item) => {
      started.push(item);
      await new Promise((resolve) => setTimeout(resolve, item * 5));
      if (item === 0) {
        throw new Error('first');
      }
      ended.push(item);
    });

    await expect(outcome).rejects.toThrow('first');
    expect(started).toEqual([0, 1]);
    expect(ended).toEqual([1]);
  });

  it('throws the reason of the signal, also when that comes during the last call', async () => {
    const stop = new AbortController();
    const reason = new Error('stopped');

    const outcome = forEachLimit([0], 2, stop.signal, async () => stop.abort(reason));

    await expect(outcome).rejects.toBe(reason);
  });
});

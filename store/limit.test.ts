import { describe, expect, it } from 'vitest';
import { forEachLimit, mapAhead } from './limit.ts';

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

describe('mapAhead', () => {
  it('gives results in the order of the items, a few calls ahead of its consumer', async () => {
    const started: number[] = [];
    const results: number[] = [];

    const all = mapAhead([0, 1, 2, 3, 4], 3, never, async (item) => {
      started.push(item);
      await new Promise((resolve) => setTimeout(resolve, 5 - item));
      return item;
    });
    for await (const result of all) {
      expect(started.length).toBeLessThanOrEqual(results.length + 3);
      results.push(result);
    }

    expect(results).toEqual([0, 1, 2, 3, 4]);
  });

  it.each([
    ['a call fails', true],
    ['the consumer stops', false],
  ])('waits for the running calls when %s', async (_, fails) => {
    let running = 0;
    const consume = async (): Promise<void> => {
      const all = mapAhead([0, 1, 2, 3], 3, never, async (item) => {
        running += 1;
        await new Promise((resolve) => setTimeout(resolve, 3 * item));
        running -= 1;
        if (fails) {
          throw new Error('failed');
        }
        return item;
      });
      for await (const _item of all) {
        break;
      }
    };

    await consume().catch((error: unknown) => expect(error).toMatchObject({ message: 'failed' }));

    expect(running).toBe(0);
  });
});

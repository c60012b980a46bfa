import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { watch } from '../../test/harness/backends.ts';
import { testOp } from '../../test/harness/checkpoint-dir.ts';
import type { Backend } from './backend.ts';
import { followLimits } from './limits-file.ts';
import { openLocalBackend } from './local.ts';
import { Gate } from '../gate.ts';
import { RateLimiter, withLimits } from './rate-limit.ts';
import { describeBackend } from './suite.ts';

const MB = 1_000_000;
let dir = '';
let place: Backend;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-limits-'));
  place = await openLocalBackend(join(dir, 'store'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

async function elapsedMs(act: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await act();
  return performance.now() - startedAt;
}

function unlimited(): { up: RateLimiter; down: RateLimiter; transfers: Gate } {
  return { up: new RateLimiter(), down: new RateLimiter(), transfers: new Gate(Number.POSITIVE_INFINITY) };
}

describe('RateLimiter', () => {
  it('lets through no more than its budget, over several transfers', async () => {
    const limiter = new RateLimiter(10 * MB);

    const took = await elapsedMs(async () => {
      for (let transfer = 0; transfer < 4; transfer += 1) {
        await limiter.take(MB);
      }
    });

    // the first begins at once, the others when those before are paid: 300 ms
    expect(took).toBeGreaterThan(280);
    expect(took).toBeLessThan(1500);
  });

  it('follows a new rate while somebody waits', async () => {
    const limiter = new RateLimiter(1);
    await limiter.take(MB);

    const took = await elapsedMs(async () => {
      const waiting = limiter.take(MB);
      setTimeout(() => limiter.setRate(undefined), 20);
      await waiting;
    });

    expect(took).toBeLessThan(1500);
  });

  it('keeps small objects from waiting, and ends when it is cancelled', async () => {
    const limiter = new RateLimiter(1);
    await limiter.take(MB);
    const stop = new AbortController();

    await limiter.take(1000);
    const waiting = limiter.take(MB, stop.signal);
    stop.abort(new Error('stopped'));

    await expect(waiting).rejects.toThrow('stopped');
  });
});

describe('withLimits', () => {
  it('waits before what is sent and what is read, each by its own rate', async () => {
    const limits = unlimited();
    const backend = withLimits(place, limits);
    await backend.put('packs/a', Buffer.alloc(MB));
    limits.up.setRate(10 * MB);
    limits.down.setRate(5 * MB);

    const range = { offset: 0, bytes: MB };
    const up = await elapsedMs(async () => {
      await backend.put('packs/b', Buffer.alloc(MB));
      await backend.put('packs/c', Buffer.alloc(MB));
    });
    const down = await elapsedMs(async () => {
      await backend.get('packs/a', { range });
      await backend.get('packs/b', { range });
    });

    expect(up).toBeGreaterThan(90);
    expect(down).toBeGreaterThan(190);
    expect(up + down).toBeLessThan(3000);
  });

  it('runs at most so many transfers at once, and more after the limit was raised', async () => {
    let running = 0;
    let most = 0;
    const ends: Array<() => void> = [];
    const slow = watch(place, async (_, proceed) => {
      running += 1;
      most = Math.max(most, running);
      await new Promise<void>((resolve) => ends.push(resolve));
      running -= 1;
      return proceed();
    });
    const limits = { ...unlimited(), transfers: new Gate(2) };
    const backend = withLimits(slow, limits);

    const puts = ['a', 'b', 'c', 'd', 'e'].map((key) => backend.put(key, Buffer.from(key)));
    await expect.poll(() => ends.length).toBe(2);
    ends.shift()?.();
    await expect.poll(() => ends.length).toBe(2);
    expect(most).toBe(2);
    limits.transfers.setLimit(4);
    await expect.poll(() => ends.length).toBe(4);
    ends.forEach((end) => end());

    await Promise.all(puts);
    expect(most).toBe(4);
  });

  it('gives up a turn that is cancelled', async () => {
    const gate = new Gate(1);
    const stop = new AbortController();
    const first = Promise.withResolvers<void>();
    const running = gate.run(() => first.promise);
    const cancelled = gate.run(() => Promise.resolve('ran'), stop.signal);
    const next = gate.run(() => Promise.resolve('next'));

    stop.abort(new Error('stopped'));
    await expect(cancelled).rejects.toThrow('stopped');
    first.resolve();

    await running;
    expect(await next).toBe('next');
  });
});

describe('followLimits', () => {
  it('follows its file: limits that are added, changed, wrong, and gone', async () => {
    const path = join(dir, 'limits.json');
    const op = testOp();
    const errors: string[] = [];
    const limits = await followLimits(path, { ...op.log, error: (_, message) => errors.push(message) });
    try {
      await limits.up.take(MB);
      await limits.up.take(MB);
      await writeFile(path, JSON.stringify({ uploadBytesPerSecond: 1 }));
      // with a rate the debt of the next transfer holds up the one behind it
      const held = async (): Promise<boolean> => {
        await limits.up.take(1000);
        const stop = AbortSignal.timeout(20);
        return limits.up.take(MB, stop).then(
          () => false,
          () => true,
        );
      };
      await expect.poll(held, { timeout: 8000 }).toBe(true);
      await writeFile(path, '{"uploadBytesPerSecond": "fast"}');
      await expect.poll(() => errors.length, { timeout: 8000 }).toBe(1);
      expect(await held()).toBe(true);
      await rm(path);
      await expect.poll(held, { timeout: 8000 }).toBe(false);
    } finally {
      limits.stop();
    }
  });
});

let root = '';
describeBackend(
  'directory behind limits',
  async () => {
    root = await mkdtemp(join(tmpdir(), 'kybernate-limits-'));
    const limits = { up: new RateLimiter(10 ** 9), down: new RateLimiter(10 ** 9), transfers: new Gate(2) };
    const missing = await openLocalBackend(join(root, 'unmounted'));
    await rm(join(root, 'unmounted'), { recursive: true });
    return {
      backend: withLimits(await openLocalBackend(join(root, 'store')), limits),
      leaveHalfMade: () => writeFile(join(root, 'store/.tmp/half'), 'half'),
      missingPlace: withLimits(missing, limits),
      missingPlaceError: 'StorageUnavailable',
    };
  },
  () => rm(root, { recursive: true, force: true }),
);

/*
 * A store that sends and reads no faster than it is told. The limits may be changed at any time; what waits follows
 * them. Small objects (leases, manifests) count and do not wait, so that nothing expires behind a slow pack.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Gate } from '../gate.ts';
import type { Backend, CallOptions } from './backend.ts';

const FREE_BYTES = 65_536;
/** A timer that is set to more than 24 days fires at once. */
const MAX_PAUSE_MS = 60_000;

/** A budget of bytes a second. It holds over the time of a few packs: a transfer once begun goes at full speed. */
export class RateLimiter {
  #bytesPerSecond: number | undefined;
  /** bytes let through beyond the budget, at the time `#at` */
  #debt = 0;
  #at = performance.now();
  #changed = Promise.withResolvers<void>();

  /** @param bytesPerSecond undefined: no limit */
  constructor(bytesPerSecond?: number) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  setRate(bytesPerSecond: number | undefined): void {
    this.#settle();
    this.#bytesPerSecond = bytesPerSecond;
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  /** Waits until what was let through is within the budget, then lets `bytes` through. */
  async take(bytes: number, signal?: AbortSignal): Promise<void> {
    if (bytes > FREE_BYTES) {
      await this.#whenPaid(signal);
    }
    this.charge(bytes);
  }

  async #whenPaid(signal: AbortSignal | undefined): Promise<void> {
    while (this.#settle() > 0 && this.#bytesPerSecond !== undefined) {
      const woken = new AbortController();
      const stop = signal === undefined ? woken.signal : AbortSignal.any([woken.signal, signal]);
      const paidMs = Math.ceil((this.#debt / this.#bytesPerSecond) * 1000);
      const paid = sleep(Math.min(paidMs, MAX_PAUSE_MS), undefined, { signal: stop }).catch(() => undefined);
      await Promise.race([paid, this.#changed.promise]);
      woken.abort();
      signal?.throwIfAborted();
    }
  }

  /** Counts what went through already; the next ones wait for it. */
  charge(bytes: number): void {
    this.#debt += bytes;
  }

  /** @returns bytes over the budget now */
  #settle(): number {
    const now = performance.now();
    const allowed = this.#bytesPerSecond === undefined ? this.#debt : ((now - this.#at) / 1000) * this.#bytesPerSecond;
    this.#at = now;
    this.#debt = Math.max(0, this.#debt - allowed);
    return this.#debt;
  }
}

export interface Limits {
  readonly up: RateLimiter;
  readonly down: RateLimiter;
  /** puts and gets of one process at once */
  readonly transfers: Gate;
}

export function withLimits(backend: Backend, { up, down, transfers }: Limits): Backend {
  async function send<Result>(bytes: number, { signal }: CallOptions, act: () => Promise<Result>): Promise<Result> {
    await up.take(bytes, signal);
    return transfers.run(act, signal);
  }
  return {
    url: backend.url,
    put: (key, bytes, options = {}) => send(bytes.length, options, () => backend.put(key, bytes, options)),
    putIfAbsent: (key, bytes, options = {}) =>
      send(bytes.length, options, () => backend.putIfAbsent(key, bytes, options)),
    async get(key, options = {}) {
      const { range, signal } = options;
      const expected = range === undefined ? 0 : 'last' in range ? range.last : range.bytes;
      await down.take(expected, signal);
      const bytes = await transfers.run(() => backend.get(key, options), signal);
      down.charge((bytes?.length ?? 0) - expected);
      return bytes;
    },
    head: (key, options) => backend.head(key, options),
    list: (prefix, options) => backend.list(prefix, options),
    delete: (key, options) => backend.delete(key, options),
    sweep: (olderThanMs, options) => backend.sweep(olderThanMs, options),
    close: () => backend.close(),
  };
}

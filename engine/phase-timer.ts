/*
 * A time line of parts that follow one another: starting a part ends the one before, so the parts add up to the total
 * but for what lies between construction and the first part.
 */
import type { PhaseTimes } from '../core/contract/checkpoint.ts';

export class PhaseTimer {
  readonly #startedAt = performance.now();
  readonly #parts = new Map<string, number>();
  readonly #freeze = new Span();
  readonly #gpuPause = new Span();
  #current: { name: string; at: number } | undefined;

  part(name: string): void {
    const now = performance.now();
    this.#close(now);
    this.#current = { name, at: now };
  }

  /** A part inside of the current one, which goes on afterwards. */
  async within<Result>(name: string, act: () => Promise<Result>): Promise<Result> {
    const around = this.#current?.name;
    this.part(name);
    try {
      return await act();
    } finally {
      if (around !== undefined) {
        this.part(around);
      }
    }
  }

  /** The workload stands still from here on. */
  frozen(): void {
    this.#freeze.begin();
  }

  thawed(): void {
    this.#freeze.end();
  }

  /** The first lock is about to be asked for. */
  gpuPaused(): void {
    this.#gpuPause.begin();
  }

  /** The last unlock is done. */
  gpuRuns(): void {
    this.#gpuPause.end();
  }

  /** Up to now. The part that is under way goes on. */
  times(): PhaseTimes {
    const now = performance.now();
    this.#close(now);
    const parts = Object.fromEntries([...this.#parts].map(([name, ms]) => [name, round(ms)]));
    const totalMs = now - this.#startedAt;
    const accounted = [...this.#parts.values()].reduce((sum, ms) => sum + ms, 0);
    const gpuPauseMs = this.#gpuPause.ms(now);
    return {
      freezeMs: round(this.#freeze.ms(now) ?? 0),
      ...(gpuPauseMs === undefined ? {} : { gpuPauseMs: round(gpuPauseMs) }),
      totalMs: round(totalMs),
      unaccountedMs: round(totalMs - accounted),
      parts,
    };
  }

  #close(now: number): void {
    if (this.#current !== undefined) {
      const { name, at } = this.#current;
      this.#parts.set(name, (this.#parts.get(name) ?? 0) + (now - at));
      this.#current = { name, at: now };
    }
  }
}

/** Time between a begin and an end, over all such pairs. */
class Span {
  #begunAt: number | undefined;
  #sumMs: number | undefined;

  begin(): void {
    this.#begunAt ??= performance.now();
  }

  end(): void {
    this.#sumMs = this.ms(performance.now());
    this.#begunAt = undefined;
  }

  /** undefined when it never began */
  ms(now: number): number | undefined {
    return this.#begunAt === undefined ? this.#sumMs : (this.#sumMs ?? 0) + (now - this.#begunAt);
  }
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}

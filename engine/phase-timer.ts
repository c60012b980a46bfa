/*
 * A time line of parts that follow one another: starting a part ends the one before, so the parts add up to the total
 * but for what lies between construction and the first part.
 */
import type { PhaseTimes } from '../core/contract/checkpoint.ts';

export class PhaseTimer {
  readonly #startedAt = performance.now();
  readonly #parts = new Map<string, number>();
  #current: { name: string; at: number } | undefined;
  #frozenAt: number | undefined;
  #freezeMs = 0;

  part(name: string): void {
    const now = performance.now();
    this.#close(now);
    this.#current = { name, at: now };
  }

  /** The workload stands still from here on. */
  frozen(): void {
    this.#frozenAt ??= performance.now();
  }

  thawed(): void {
    if (this.#frozenAt !== undefined) {
      this.#freezeMs += performance.now() - this.#frozenAt;
      this.#frozenAt = undefined;
    }
  }

  times(): PhaseTimes {
    const now = performance.now();
    this.#close(now);
    this.#current = undefined;
    const parts = Object.fromEntries([...this.#parts].map(([name, ms]) => [name, round(ms)]));
    const totalMs = now - this.#startedAt;
    const accounted = [...this.#parts.values()].reduce((sum, ms) => sum + ms, 0);
    const freezeMs = this.#freezeMs + (this.#frozenAt === undefined ? 0 : now - this.#frozenAt);
    return {
      freezeMs: round(freezeMs),
      totalMs: round(totalMs),
      unaccountedMs: round(totalMs - accounted),
      parts,
    };
  }

  #close(now: number): void {
    if (this.#current !== undefined) {
      const { name, at } = this.#current;
      this.#parts.set(name, (this.#parts.get(name) ?? 0) + (now - at));
    }
  }
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}

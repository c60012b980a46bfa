/*
 * Heartbeats that mean something: sent at a steady rate, but only while the step has moved lately. A hung step falls
 * silent, so the server's heartbeat timeout finds it.
 */
import type { Progress } from '../core/op.ts';

export interface PulseOptions {
  /** at most a third of the heartbeat timeout */
  readonly everyMs: number;
  readonly stallMs: number;
  readonly beat: (last: Progress | undefined) => void;
  /** called once, when nothing has moved for `stallMs` */
  readonly onStall: (silentMs: number) => void;
}

export class Pulse {
  readonly #options: PulseOptions;
  readonly #timer: NodeJS.Timeout;
  #last: Progress | undefined;
  #movedAtMs = performance.now();

  constructor(options: PulseOptions) {
    this.#options = options;
    options.beat(undefined);
    this.#timer = setInterval(() => this.#tick(), options.everyMs);
    this.#timer.unref();
  }

  /** The same state again is no movement: a loop that waits in vain must not look alive. */
  moved(done: Progress): void {
    const last = this.#last;
    if (last?.phase !== done.phase || last.bytesDone !== done.bytesDone || last.bytesTotal !== done.bytesTotal) {
      this.#movedAtMs = performance.now();
    }
    this.#last = done;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const silentMs = performance.now() - this.#movedAtMs;
    if (silentMs < this.#options.stallMs) {
      this.#options.beat(this.#last);
      return;
    }
    this.stop();
    this.#options.onStall(Math.round(silentMs));
  }
}

const MIN_SIGNAL_MS = 5000;

/**
 * Signals are events of the workflow's history, which is limited: never more often than every five seconds, and rarer
 * as the step grows old (a day's upload sends about 600).
 */
export function signalIntervalMs(elapsedMs: number): number {
  return Math.max(MIN_SIGNAL_MS, elapsedMs / 100);
}

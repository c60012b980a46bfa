/*
 * One key at a time: an object is never handled twice at once, and whatever happens to it while it is handled makes one
 * more turn. A turn that fails comes again, later each time.
 */
import type { Logger } from '../core/op.ts';
import { messageOf } from '../core/errors.ts';

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 60_000;

export interface WorkQueueOptions {
  /** One turn. @returns ms until the next one; undefined: not before something changes */
  readonly handle: (key: string) => Promise<number | undefined>;
  readonly log: Logger;
  /** turns at once */
  readonly parallel: number;
  /** told of every turn that failed */
  readonly failed?: () => void;
}

export class WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #waiting = new Set<string>();
  readonly #running = new Set<string>();
  readonly #timers = new Map<string, NodeJS.Timeout>();
  readonly #failures = new Map<string, number>();
  #isOpen = true;
  #idle: (() => void) | undefined;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
  }

  /** Keys that wait for a turn. */
  get length(): number {
    return this.#waiting.size;
  }

  /** Now, or as soon as its present turn is over. */
  add(key: string): void {
    if (!this.#isOpen) {
      return;
    }
    clearTimeout(this.#timers.get(key));
    this.#timers.delete(key);
    this.#waiting.add(key);
    this.#next();
  }

  /** No turn begins any more. @returns when those under way are over */
  async close(): Promise<void> {
    this.#isOpen = false;
    this.#waiting.clear();
    this.#timers.forEach((timer) => clearTimeout(timer));
    this.#timers.clear();
    if (this.#running.size > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
  }

  #next(): void {
    for (const key of this.#waiting) {
      if (this.#running.size >= this.#options.parallel) {
        return;
      }
      if (!this.#running.has(key)) {
        this.#waiting.delete(key);
        this.#running.add(key);
        void this.#turn(key);
      }
    }
  }

  async #turn(key: string): Promise<void> {
    const again = await this.#handle(key);
    this.#running.delete(key);
    if (this.#isOpen && again !== undefined && !this.#waiting.has(key)) {
      this.#timers.set(
        key,
        setTimeout(() => this.add(key), again),
      );
    }
    if (!this.#isOpen && this.#running.size === 0) {
      this.#idle?.();
    }
    this.#next();
  }

  async #handle(key: string): Promise<number | undefined> {
    try {
      const again = await this.#options.handle(key);
      this.#failures.delete(key);
      return again;
    } catch (error) {
      const failures = this.#failures.get(key) ?? 0;
      this.#failures.set(key, failures + 1);
      const retryMs = Math.min(FIRST_RETRY_MS * 2 ** failures, LAST_RETRY_MS);
      this.#options.failed?.();
      this.#options.log.warn({ key, error: messageOf(error), retryMs }, 'an object could not be handled');
      return retryMs;
    }
  }
}

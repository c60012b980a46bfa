/*
 * The release of a workload that an operation holds: one at a time, and one for good. One that failed is tried again, by
 * who asks and by ourselves as long as something is held, since worker and Temporal may be away.
 */
import type { ResumeResult } from '../core/contract/checkpoint.ts';
import { isKybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';

/** Between two tries of our own to let a workload go that is still held. */
const RETRY_MS = 5000;

export interface ReleaseOptions {
  readonly log: Logger;
  /** is there still something to let go? */
  readonly isHeld: () => boolean;
  /** has the owner ended the container? Then what was held for good can be given back. */
  readonly isGone: () => boolean;
  readonly again: () => Promise<unknown>;
}

export class Release {
  readonly #options: ReleaseOptions;
  #running: Promise<ResumeResult> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #failed = false;
  #forGood = false;

  constructor(options: ReleaseOptions) {
    this.#options = options;
  }

  /** The one under way, or done. */
  get current(): Promise<ResumeResult> | undefined {
    return this.#running;
  }

  /** The last one failed: what is held is not known any more. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Joins the one that is under way or done. */
  by(act: () => Promise<ResumeResult>): Promise<ResumeResult> {
    this.#running ??= act().catch((error: unknown) => {
      this.#running = undefined;
      this.wentWrong(error);
      throw error;
    });
    return this.#running;
  }

  /** What was let go may be held again, and is then let go again. Only after a release that worked. */
  reopen(): void {
    this.#running = undefined;
  }

  /** `details.final` of the error: it is useless to try again while the container lives. */
  wentWrong(error: unknown): void {
    this.#failed = true;
    this.#forGood = isKybernateError(error) && error.details['final'] === true;
    this.#options.log.error({ error: String(error) }, 'the release failed');
    this.#retryLater();
  }

  #retryLater(): void {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => {
      if (!this.#options.isHeld()) {
        return;
      }
      if (this.#forGood && !this.#options.isGone()) {
        this.#retryLater();
        return;
      }
      // Its failure is logged, and brings us here again.
      this.#options.again().catch(() => undefined);
    }, RETRY_MS);
  }
}

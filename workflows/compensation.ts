/*
 * The undo stack of an operation. An undo is pushed before its step is awaited, since a step that failed may have half
 * happened; every undo is idempotent and a no-op where nothing happened. No Temporal here: the caller shields run()
 * from cancellation.
 */
import { messageOf } from '../core/errors.ts';

export interface UndoOptions {
  /**
   * What comes later in the stack needs this to have worked: discarding a capture whose source may still be frozen
   * would destroy the only whole copy. Where it fails, the others are left as they are and reported.
   */
  readonly barrier?: boolean;
  /** Runs even behind a barrier. */
  readonly always?: boolean;
  /** Runs after all others, whenever it is pushed: nothing that the workload waits for may stand behind it. */
  readonly last?: boolean;
}

export interface UndoReport {
  readonly done: readonly string[];
  /** what the undos answered, by their names */
  readonly results: Readonly<Record<string, unknown>>;
  readonly failed: ReadonlyArray<{ readonly name: string; readonly message: string; readonly error: unknown }>;
  /** not tried, because a barrier before them failed */
  readonly skipped: readonly string[];
}

interface Undo extends UndoOptions {
  readonly name: string;
  readonly run: () => Promise<unknown>;
}

export class Compensation {
  #stack: Undo[] = [];

  push(name: string, run: () => Promise<unknown>, options: UndoOptions = {}): void {
    const undo = { name, run, ...options };
    this.#stack = options.last === true ? [undo, ...this.#stack] : [...this.#stack, undo];
  }

  /** The step is over for good, or was undone on the main path: nothing is left to undo. */
  settle(name: string): void {
    this.#stack = this.#stack.filter((undo) => undo.name !== name);
  }

  get isEmpty(): boolean {
    return this.#stack.length === 0;
  }

  /** A mark for `run`: what is pushed from now on lies above it. */
  get depth(): number {
    return this.#stack.length;
  }

  /**
   * Undoes what lies above a mark, last pushed first; everything without one. Never throws: what failed is in the report.
   */
  async run(depth = 0): Promise<UndoReport> {
    const done: string[] = [];
    const results: Record<string, unknown> = {};
    const failed: Array<UndoReport['failed'][number]> = [];
    const skipped: string[] = [];
    let blocked = false;
    while (this.#stack.length > depth) {
      const undo = this.#stack.pop();
      if (undo === undefined) {
        break;
      }
      if (blocked && undo.always !== true) {
        skipped.push(undo.name);
        continue;
      }
      try {
        results[undo.name] = await undo.run();
        done.push(undo.name);
      } catch (error) {
        // Anything may arrive here; one undo that failed must not keep the others from being tried.
        failed.push({ name: undo.name, message: messageOf(error), error });
        blocked ||= undo.barrier === true;
      }
    }
    return { done, results, failed, skipped };
  }
}

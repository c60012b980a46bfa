/* An `Op` for what the CLI does itself: store and engine functions that a worker would call with a log. */
import type { Op } from '../core/op.ts';

/** Says nothing but warnings, and never aborts: Ctrl-C ends the program. */
export function createCliOp(note: (text: string) => void): Op {
  const silent = (): void => undefined;
  return {
    signal: new AbortController().signal,
    log: {
      debug: silent,
      info: silent,
      warn: (_fields, message) => note(message),
      error: (_fields, message) => note(message),
    },
    progress: silent,
  };
}

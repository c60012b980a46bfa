/*
 * What a long operation may use, whoever called it: a Temporal activity, the runner, the wrapper or the CLI. The seam
 * that keeps engine/ and store/ free of Temporal.
 */

export interface Logger {
  debug(fields: Record<string, unknown>, message: string): void;
  info(fields: Record<string, unknown>, message: string): void;
  warn(fields: Record<string, unknown>, message: string): void;
  error(fields: Record<string, unknown>, message: string): void;
}

export interface Progress {
  /** what is being done, one of the phase names */
  readonly phase: string;
  readonly bytesDone?: number;
  readonly bytesTotal?: number;
}

export interface Op {
  /** Aborted when the caller wants the operation to stop at the next safe point. */
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** Cheap: may be called for every chunk. */
  progress(done: Progress): void;
}

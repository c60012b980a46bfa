/* What a running operation tells: query `progress`, signal `reportProgress`. */
import type { RungReport } from './ladder.ts';
import type { Phase } from '../phases.ts';
import type { ResumeResult } from './checkpoint.ts';

export interface OperationProgress {
  readonly phase: Phase;
  readonly node: string;
  readonly container: string;
  readonly checkpointId?: string;
  /** the checkpoint is whole on the node: nothing takes it back any more, a cancellation least of all */
  readonly committed?: true;
  /** processes that use a GPU, and their VRAM; absent where there are none, or before it is known */
  readonly gpu?: { readonly processes: number; readonly vramBytes: number };
  /** ISO time at which the phase began */
  readonly phaseStartedAt: string;
  readonly bytesDone?: number;
  readonly bytesTotal?: number;
  /** of an operation on several nodes: node → its part of these bytes */
  readonly nodes?: Readonly<Record<string, NodeBytes>>;
  /** of a restore: what was tried before the present attempt */
  readonly rungs?: readonly RungReport[];
  /** phases that are over, in order, with their wall time in ms */
  readonly finished: ReadonlyArray<{ readonly phase: Phase; readonly durationMs: number }>;
  /**
   * while the source may stand still: the budget that bounds this, and the time at which it is over if it was used from
   * the step's begin on; the freeze itself begins later, so at least this much is left
   */
  readonly budget?: { readonly kind: 'freeze' | 'hold'; readonly endsAt: string };
  /** of an operation that failed or was cancelled: what was read back of the source */
  readonly rollback?: ResumeResult;
  readonly lastError?: string;
  readonly outcome?: string;
}

export interface NodeBytes {
  readonly bytesDone: number;
  readonly bytesTotal?: number;
}

/** Sent by a node at most every five seconds, and never from inside the freeze. */
export interface ProgressReport {
  readonly phase: string;
  /** of an operation on several nodes: which one reports */
  readonly node?: string;
  readonly bytesDone?: number;
  readonly bytesTotal?: number;
}

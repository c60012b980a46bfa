/*
 * One way to take a running container's state, in four acts: `plan` before anything is touched, `freeze` until the
 * workload may run again as far as the capture is concerned, `release` lets it run, `finish` does what needs no frozen
 * workload. Plain CRIU stands behind it: of containers (capture-criu.ts), and of processes of the host
 * (capture-process.ts).
 */
import type { ProcessTree } from '../core/checkpoint/metadata.ts';
import type { Logger } from '../core/op.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import type { Run } from '../native/run/run.ts';
import type { OperationPaths, OperationPlan } from './operation.ts';
import type { PhaseTimer } from './phase-timer.ts';

export interface CaptureContext {
  readonly plan: OperationPlan;
  readonly paths: OperationPaths;
  readonly run: Run;
  /** only the engine `containerd` connects */
  readonly containerd: () => Containerd;
  /** the container's flock, inherited by runc */
  readonly lockFd: number;
  readonly timer: PhaseTimer;
  readonly log: Logger;
  /** aborted by cancellation and by the freeze budget */
  readonly signal: AbortSignal;
  /** called right before the first write to the freezer: writes the journal, starts the budget */
  readonly onFreezing: () => void;
  /** called when no task of the container runs any more */
  readonly onFrozen: () => void;
  /** called when the workload runs although nobody has released it: what held it was ended by others */
  readonly onLost: (reason: Error) => void;
}

export interface CaptureOutcome {
  readonly imageBytes: number;
  readonly rootfsBytes: number;
  readonly deletedFiles: number;
  readonly rootfsMethod: 'overlay' | 'diff-service' | 'none';
  readonly warnings: readonly string[];
  /** of a tree of processes */
  readonly process?: ProcessTree;
  readonly networkHold?: { readonly table: string; readonly networkNamespace: string };
  /** pids and thread ids that a restore takes in a shared pid namespace */
  readonly ids?: readonly number[];
}

export interface Capture {
  /** name recorded in the metadata */
  readonly method: string;
  /** Makes directories, pipes and configuration. Touches nothing of the workload. */
  plan(): Promise<void>;
  /**
   * Freezes the workload and takes all that must be taken while it stands still. On return it is frozen, complete and
   * free of CRIU, or held by a CRIU that is done and waits. On a throw it may be in any state: the caller undoes.
   */
  freeze(): Promise<void>;
  /** Lets the workload run. */
  release(): Promise<void>;
  /** The workload was ended in place of its release: ends what has waited for that. */
  abandon?(): Promise<void>;
  /** What needs no frozen workload: sizes, logs, later: pages. */
  finish(): Promise<CaptureOutcome>;
  /** Copies what the tools logged, never while the workload stands still. Absent logs are success. */
  saveLogs(dir: string): Promise<void>;
}

/*
 * The words for where an operation is: in progress queries, search attributes, journals, metrics and the CLI alike.
 */

export const CHECKPOINT_PHASES = [
  'probing',
  'locking',
  'planning',
  'starting-runner',
  'saving-gpu',
  'capturing',
  'resuming',
  'committing',
  'holding',
  'uploading',
  'publishing',
  'verifying',
  'stopping',
] as const;

export const RESTORE_PHASES = [
  'resolving',
  'probing',
  'locking',
  'planning',
  'fetching',
  'creating',
  'restoring',
  'verifying',
] as const;

/** Looking at the copies of a checkpoint, and making one whole from another. */
export const REPAIR_PHASES = ['verifying', 'repairing'] as const;

export const COLLECT_PHASES = ['marking', 'waiting', 'deleting'] as const;

/** What the CLI does without a workflow; an archive of the kubelet is imported by one. */
export const LOCAL_PHASES = ['verifying', 'exporting', 'importing'] as const;
export type LocalPhase = (typeof LOCAL_PHASES)[number];

export const END_PHASES = ['rolling-back', 'done', 'failed', 'cancelled'] as const;

export type CheckpointPhase = (typeof CHECKPOINT_PHASES)[number];
export type RestorePhase = (typeof RESTORE_PHASES)[number];
export type Phase =
  | CheckpointPhase
  | RestorePhase
  | (typeof REPAIR_PHASES)[number]
  | LocalPhase
  | (typeof COLLECT_PHASES)[number]
  | (typeof END_PHASES)[number];

/**
 * Steps inside the runner, in order. `frozen` is true while the workload does not run or its GPU is locked: a journal whose last step done
 * is followed by a frozen one must be undone by whoever finds it without a live runner.
 */
export const RUNNER_STEPS = {
  armed: { frozen: false },
  /** the workload is asked to come to rest; never written without a hook for it */
  quiescing: { frozen: true },
  /** GPU processes are locked, saved or both from here to `gpu-restored`; never written without a GPU */
  'gpu-locking': { frozen: true },
  'gpu-saved': { frozen: true },
  freezing: { frozen: true },
  frozen: { frozen: true },
  dumped: { frozen: true },
  captured: { frozen: true },
  thawed: { frozen: false },
  /** from the thaw on; the GPU counts as held from `gpu-locking` until `gpu-restored` is done, whatever lies between */
  'gpu-restoring': { frozen: true },
  'gpu-restored': { frozen: false },
  held: { frozen: true },
  /** `done`: a second owner may run from here on, nobody lets the source go any more; `failed`: it never ran, the source is ours */
  handover: { frozen: true },
  killed: { frozen: false },
  resumed: { frozen: false },
  undone: { frozen: false },
  /** the end of every operation: what was read back of the workload */
  verified: { frozen: false },
} as const satisfies Record<string, { frozen: boolean }>;

export type RunnerStep = keyof typeof RUNNER_STEPS;

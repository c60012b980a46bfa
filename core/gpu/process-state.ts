/* CUprocessState of cuda.h (driver API 12.8) in our words, and the way from one to the next. */
export const GPU_PROCESS_STATES = ['running', 'locked', 'checkpointed', 'failed'] as const;
/** In the order of the driver's numbers, from 0. */
export type GpuProcessState = (typeof GPU_PROCESS_STATES)[number];

/** What `cuCheckpointProcess<Call>` makes of which state; any other call is 401 ILLEGAL_STATE, without effect. */
export const GPU_TRANSITIONS = {
  lock: { from: 'running', to: 'locked' },
  checkpoint: { from: 'locked', to: 'checkpointed' },
  restore: { from: 'checkpointed', to: 'locked' },
  unlock: { from: 'locked', to: 'running' },
} as const satisfies Record<string, { from: GpuProcessState; to: GpuProcessState }>;

export type GpuTransition = keyof typeof GPU_TRANSITIONS;

/** Host memory that the driver takes for one process beside its VRAM. Measured on H100, driver 580. */
export const SAVE_OVERHEAD_BYTES = 552 * 1024 * 1024;

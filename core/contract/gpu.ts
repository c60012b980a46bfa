/* What callers say about GPUs: options of a checkpoint, the map of a restore, the contract of `rehearse`. */
import * as z from 'zod';
import { containerTarget, durationMs, nodeName, timeoutsWithDefaults } from './common.ts';

export const gpuUuid = z
  .string()
  .regex(/^GPU-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/, 'a GPU UUID, as nvidia-smi -L shows it');

export const gpuPair = z.strictObject({
  /** UUID of the GPU at the checkpoint */
  from: gpuUuid,
  /** UUID of the GPU that takes its place */
  to: gpuUuid,
});

/** Something that the workload does for us: a program run inside its container, or a signal that it acknowledges. */
export const workloadHook = z
  .strictObject({
    /** program and arguments, started in the container without a shell; exit code 0 is the acknowledgement */
    command: z.array(z.string().max(4096)).min(1).max(64).optional(),
    /** sent to the container's first process; acknowledged by a file */
    signal: z.enum(['SIGUSR1', 'SIGUSR2', 'SIGHUP', 'SIGCONT', 'SIGTERM', 'SIGINT']).optional(),
    /** path in the container that the workload makes or touches when it has done what the signal asks for */
    acknowledgement: z
      .string()
      .max(4096)
      .regex(/^\/[^\0]*$/, 'an absolute path')
      .refine((text) => !text.split('/').includes('..'), 'a path must not contain ".."')
      .optional(),
    timeoutMs: durationMs.default(30_000),
  })
  .refine((hook) => (hook.command === undefined) !== (hook.signal === undefined), 'give either command or signal')
  .refine((hook) => (hook.signal === undefined) === (hook.acknowledgement === undefined), {
    message: 'a signal needs the path of its acknowledgement, a command needs none',
    path: ['acknowledgement'],
  });
export type WorkloadHook = z.output<typeof workloadHook>;

export const gpuOptions = z.strictObject({
  /** how long running kernels may hold up the lock, per try; every process is unlocked and tried again until then */
  lockTimeoutMs: durationMs.default(10_000),
  /** allow a GPU that processes outside of the container use: after the save they may take the memory */
  allowShared: z.boolean().default(false),
  /**
   * The caller vouches that no CUDA IPC, peer access or NCCL over P2P is used where that cannot be seen from outside.
   * Otherwise a process with contexts on several GPUs must have passed `rehearse` first.
   */
  assumeSafe: z.boolean().default(false),
  /** transparent huge pages for the time of the operation: a third off the save. Put back afterwards. */
  hugePages: z.boolean().default(true),
  /** before the lock, for example a call of torch.cuda.empty_cache(): what is not held is not saved */
  quiesce: workloadHook.optional(),
  /** after the unlock */
  resume: workloadHook.optional(),
});
export type GpuOptions = z.output<typeof gpuOptions>;
export const gpuOptionsWithDefaults = gpuOptions.prefault({});

/**
 * Lock, save, restore and unlock in place, nothing captured: shows whether the driver can bring the job back, while it is
 * young. A job that it cannot bring back is lost by this.
 */
export const rehearseInput = z.strictObject({
  /** node that runs the container */
  node: nodeName,
  container: containerTarget,
  /** Longest time that the GPU may be out of use. */
  freezeBudgetMs: durationMs.default(120_000),
  gpu: gpuOptionsWithDefaults,
  timeouts: timeoutsWithDefaults,
});
export type RehearseInput = z.output<typeof rehearseInput>;
export type RehearseRequest = z.input<typeof rehearseInput>;

export interface RehearseResult {
  readonly node: string;
  readonly container: { readonly namespace: string; readonly id: string };
  readonly gpuProcesses: number;
  readonly vramBytes: number;
  /** from the first lock to the last unlock; absent when the runner died and another process brought the GPU back */
  readonly gpuPauseMs?: number;
  /** name of a part to its duration in ms, in order of time */
  readonly parts: Readonly<Record<string, number>>;
  readonly warnings: readonly string[];
}

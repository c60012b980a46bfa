/* The options that say what holds for GPU processes; `checkpoint` and `gpu rehearse` share them. */
import type { Command } from 'commander';
import { durationArgument, programArgument, withoutUndefined } from './options.ts';
import type { FlagNames } from './validate.ts';

export interface GpuFlags {
  readonly gpuAllowShared?: boolean;
  readonly gpuAssumeSafe?: boolean;
  readonly gpuLockTimeout?: number;
  /** commander sets it to true where nobody says `--no-huge-pages` */
  readonly hugePages?: boolean;
  readonly quiesce?: readonly string[];
  readonly resumeHook?: readonly string[];
}

export const GPU_FLAGS: FlagNames = {
  gpu: 'the gpu options',
  'gpu.allowShared': '--gpu-allow-shared',
  'gpu.assumeSafe': '--gpu-assume-safe',
  'gpu.lockTimeoutMs': '--gpu-lock-timeout',
  'gpu.hugePages': '--no-huge-pages',
  'gpu.quiesce': '--quiesce',
  'gpu.resume': '--resume-hook',
};

/** The field `gpu` of a request: what the flags say over what the input file says; undefined when both are silent. */
export function gpuOptionsOf(flags: GpuFlags, base: unknown): object | undefined {
  const given = withoutUndefined({
    allowShared: flags.gpuAllowShared,
    assumeSafe: flags.gpuAssumeSafe,
    lockTimeoutMs: flags.gpuLockTimeout,
    hugePages: flags.hugePages === false ? false : undefined,
    quiesce: flags.quiesce === undefined ? undefined : { command: flags.quiesce },
    resume: flags.resumeHook === undefined ? undefined : { command: flags.resumeHook },
  });
  return Object.keys(given).length === 0 ? undefined : { ...(base as object | undefined), ...given };
}

export function addGpuOptions(command: Command): Command {
  return command
    .option('--gpu-allow-shared', 'allow a GPU that processes outside of the container use')
    .option('--gpu-assume-safe', 'vouch that no CUDA IPC, peer access or NCCL over P2P is used where it cannot be seen')
    .option(
      '--gpu-lock-timeout <duration>',
      'longest wait for running kernels, per try (default: 10s)',
      durationArgument,
    )
    .option('--no-huge-pages', 'leave transparent huge pages as they are; on, the save takes a third less')
    .option(
      '--quiesce <program>',
      'run in the container before the GPU is locked; words, or a JSON array',
      programArgument,
    )
    .option('--resume-hook <program>', 'run in the container after the GPU is unlocked', programArgument);
}

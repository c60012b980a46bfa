/*
 * Counts what the steps of a process did, from their results and errors: nothing is measured inside of a step. Only the
 * bytes of long steps are counted on the way, by their progress, so that a speed can be seen while they run.
 */
import type { Context } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import type { ActivityInterceptors } from '@temporalio/worker';
import type {
  CaptureResult,
  CommitLocalResult,
  ResumeResult,
  SaveGpuStateResult,
  UploadResult,
} from '../core/contract/checkpoint.ts';
import type { FetchImageResult, StartRestoredResult } from '../core/contract/restore.ts';
import type { RestoredProcess } from '../core/contract/process.ts';
import { messageOf } from '../core/errors.ts';
import type { Meter } from '../core/metrics.ts';
import type { Progress } from '../core/op.ts';

/** Who wants to know how far a step has come; forgotten with the context of its attempt. */
const watchers = new WeakMap<Context, (done: Progress) => void>();

export function tellProgress(context: Context, done: Progress): void {
  watchers.get(context)?.(done);
}

/** For `WorkerOptions.interceptors.activity`, before `mapErrorsInterceptor`: it sees errors as Temporal will. */
export function observeSteps(meter: Meter): (context: Context) => ActivityInterceptors {
  return (context) => {
    const { activityType: step } = context.info;
    let subject: Subject = {};
    return {
      inbound: {
        async execute(input, next) {
          subject = subjectOf(input.args[0]);
          watchers.set(context, movedBytes(meter));
          let result: unknown;
          try {
            result = await next(input);
          } catch (error) {
            countFailure(meter, step, error);
            throw error;
          }
          tellResult(context, meter, result);
          return result;
        },
      },
      outbound: { getLogAttributes: (input, next) => next({ ...subject, ...input }) },
    };
  };
}

/** What every line of a step's log is about, with the keys of all our logs. */
interface Subject {
  readonly checkpointId?: string;
  readonly container?: string;
}

/** @param input of a step, as activities/contract.ts has them */
function subjectOf(input: unknown): Subject {
  const { checkpointId: direct, context } = (input ?? {}) as {
    readonly checkpointId?: string;
    readonly context?: { readonly checkpointId?: string; readonly container?: { namespace: string; id: string } };
  };
  const checkpointId = context?.checkpointId ?? direct;
  const container = context?.container;
  return {
    ...(checkpointId === undefined ? {} : { checkpointId }),
    ...(container === undefined ? {} : { container: `${container.namespace}/${container.id}` }),
  };
}

/** A step is done when its result is there, whatever becomes of its numbers. */
function tellResult(context: Context, meter: Meter, result: unknown): void {
  const { activityType: step } = context.info;
  try {
    countResult(meter, step, result);
    logCapture(context, step, result);
  } catch (error) {
    context.log.warn('the result of a step could not be counted', { step, error: messageOf(error) });
  }
}

/** Steps tell totals, and begin again at their next attempt. */
function movedBytes(meter: Meter): (done: Progress) => void {
  const last = new Map<string, number>();
  return ({ phase, bytesDone }) => {
    if (bytesDone === undefined) {
      return;
    }
    const moved = bytesDone - (last.get(phase) ?? 0);
    last.set(phase, bytesDone);
    if (moved > 0) {
      meter.add('kybernate_moved_bytes_total', { phase }, moved);
    }
  };
}

/** A cancellation is nobody's failure. */
function countFailure(meter: Meter, step: string, error: unknown): void {
  if (!(error instanceof ApplicationFailure)) {
    return;
  }
  const type = error.type ?? 'Internal';
  meter.add('kybernate_step_failures_total', { step, type });
  if (type === 'Poisoned') {
    meter.add('kybernate_poisoned_total', {});
  }
}

/** What the steps that count return, as activities/contract.ts has it. */
interface Counted {
  readonly saveGpuState: SaveGpuStateResult;
  readonly captureContainer: CaptureResult;
  readonly resumeContainer: ResumeResult;
  readonly commitLocal: CommitLocalResult;
  readonly fetchImage: FetchImageResult;
  readonly startRestored: StartRestoredResult;
  readonly restoreProcess: RestoredProcess;
  readonly uploadImage: UploadResult;
}

const COUNTED: { readonly [Step in keyof Counted]: (meter: Meter, result: Counted[Step]) => void } = {
  saveGpuState(meter, { gpuProcesses, vramBytes, parts }) {
    if (gpuProcesses > 0) {
      meter.add('kybernate_vram_bytes_total', { operation: 'checkpoint' }, vramBytes);
      gpuParts(meter, 'checkpoint', parts);
    }
  },
  captureContainer(meter, { phases }) {
    meter.observe('kybernate_freeze_seconds', {}, phases.freezeMs / 1000);
    for (const [part, ms] of Object.entries(phases.parts)) {
      meter.observe('kybernate_capture_part_seconds', { part }, ms / 1000);
    }
  },
  resumeContainer(meter, { gpu, guard }) {
    if (gpu !== undefined) {
      meter.observe('kybernate_gpu_pause_seconds', {}, gpu.pauseMs / 1000);
      // The parts of the save were told by the save.
      gpuParts(meter, 'checkpoint', only(gpu.parts, ['gpu-restore', 'gpu-unlock']));
    }
    if (guard !== undefined) {
      meter.add('kybernate_guard_actions_total', { cause: guard });
    }
  },
  commitLocal: (meter, { totalBytes }) => meter.observe('kybernate_checkpoint_bytes', {}, totalBytes),
  fetchImage: (meter, { fetchedBytes }) => meter.add('kybernate_fetched_bytes_total', {}, fetchedBytes),
  startRestored(meter, { how, restoreMs, gpu }) {
    meter.observe('kybernate_restore_seconds', { how }, restoreMs / 1000);
    if (gpu !== undefined) {
      meter.add('kybernate_vram_bytes_total', { operation: 'restore' }, gpu.vramBytes);
      gpuParts(meter, 'restore', gpu.parts);
    }
  },
  restoreProcess: (meter, { restoreMs }) =>
    meter.observe('kybernate_restore_seconds', { how: 'restored' }, restoreMs / 1000),
  uploadImage: (meter, { sentBytes }) => meter.add('kybernate_uploaded_bytes_total', {}, sentBytes),
};

function countResult(meter: Meter, step: string, result: unknown): void {
  if (Object.hasOwn(COUNTED, step)) {
    // Name and result belong together, which the compiler cannot see through the table.
    (COUNTED[step as keyof Counted] as (meter: Meter, result: unknown) => void)(meter, result);
  }
}

function gpuParts(meter: Meter, operation: string, parts: Readonly<Record<string, number>>): void {
  for (const [part, ms] of Object.entries(parts)) {
    meter.observe('kybernate_gpu_part_seconds', { operation, part }, ms / 1000);
  }
}

function only(parts: Readonly<Record<string, number>>, names: readonly string[]): Record<string, number> {
  return Object.fromEntries(Object.entries(parts).filter(([name]) => names.includes(name)));
}

/** What the runner measured is told once, beside the summary of the whole operation. */
function logCapture(context: Context, step: string, result: unknown): void {
  if (step !== 'captureContainer') {
    return;
  }
  const { phases, imageBytes, rootfsBytes } = result as CaptureResult;
  const { totalMs: durationMs, unaccountedMs, freezeMs, gpuPauseMs, parts } = phases;
  context.log.info('captured', {
    durationMs,
    freezeMs,
    ...(gpuPauseMs === undefined ? {} : { gpuPauseMs }),
    bytes: imageBytes + rootfsBytes,
    phases: parts,
    unaccountedMs,
  });
}

/* The frame of every operation: the story runs, and whatever stops it, its undo stack is worked off once. */
import {
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  CancelledFailure,
  allHandlersFinished,
  condition,
  isCancellation,
  log,
  metricMeter,
  workflowInfo,
} from '@temporalio/workflow';
import type { OperationProgress } from '../core/contract/progress.ts';
import { messageOf } from '../core/errors.ts';
import { METRICS } from '../core/metrics.ts';
import type { Compensation } from './compensation.ts';
import { failure, outcomeOf } from './failures.ts';
import { OUTCOME_CANCELLED, OUTCOME_COMPLETED, type ProgressTracker } from './progress.ts';

export interface OperationFrame<Result> {
  readonly node: string;
  readonly undo: Compensation;
  readonly progress: ProgressTracker;
  /** what was sent to other workflows has arrived */
  readonly delivered: () => Promise<void>;
  /** what `KybernateOutcome` says of a result; absent: `Completed` */
  readonly outcome?: (result: Result) => string;
  /** what the summary in the log says of a result: bytes, above all */
  readonly facts?: (result: Result) => Readonly<Record<string, string | number>>;
}

/**
 * @throws the story's own error after a complete undo; `CompensationFailed`, `Poisoned` or `NodeUnavailable` with what
 *   is left on the node otherwise. A cancellation stays a cancellation only if the undo worked.
 */
export async function runOperation<Result>(
  frame: OperationFrame<Result>,
  story: () => Promise<Result>,
): Promise<Result> {
  const { node, undo, progress } = frame;
  const scope = CancellationScope.current();
  try {
    const result = await story();
    const outcome = frame.outcome?.(result) ?? OUTCOME_COMPLETED;
    progress.end('done', outcome);
    tellEnd(frame, outcome, frame.facts?.(result));
    await CancellationScope.nonCancellable(() => settle(frame));
    return result;
  } catch (error) {
    const failed = await CancellationScope.nonCancellable(async () => {
      if (!undo.isEmpty) {
        progress.enter('rolling-back');
      }
      const report = await undo.run();
      log.info('operation undone', { done: report.done, failed: report.failed.length, skipped: report.skipped });
      await settle(frame);
      return outcomeOf(reasonOf(error, scope.consideredCancelled), report, node);
    });
    const type = failed instanceof ApplicationFailure ? (failed.type ?? 'Internal') : 'Internal';
    if (isCancellation(failed)) {
      progress.end('cancelled', OUTCOME_CANCELLED);
      tellEnd(frame, OUTCOME_CANCELLED);
    } else {
      progress.end('failed', type, `${type}: ${messageOf(failed)}`);
      tellEnd(frame, type);
    }
    throw failed;
  }
}

type Histogram = ReturnType<typeof metricMeter.createHistogram>;

/** One line of the log and three metrics: neither is a command, and a replay tells nothing. */
function tellEnd(
  { node, progress }: Pick<OperationFrame<never>, 'node' | 'progress'>,
  outcome: string,
  facts: Readonly<Record<string, string | number>> = {},
): void {
  const { workflowType: operation, startTime } = workflowInfo();
  const { state } = progress;
  const durationMs = Date.now() - startTime.getTime();
  const phases = phaseTimes(state.finished);
  const accountedMs = Object.values(phases).reduce((sum, ms) => sum + ms, 0);
  log.info('operation ended', {
    operation,
    outcome,
    node,
    container: state.container,
    ...(state.checkpointId === undefined ? {} : { checkpointId: state.checkpointId }),
    ...facts,
    durationMs,
    phases,
    // Before the first phase and after the last: the clock of a workflow stands still between two of its tasks.
    unaccountedMs: durationMs - accountedMs,
    ...(state.lastError === undefined ? {} : { error: state.lastError }),
  });
  const meter = (name: 'kybernate_operation_seconds' | 'kybernate_phase_seconds'): Histogram =>
    metricMeter.createHistogram(name, 'float', undefined, METRICS[name].help);
  const total = 'kybernate_operations_total';
  metricMeter.createCounter(total, undefined, METRICS[total].help).add(1, { operation, source_node: node, outcome });
  meter('kybernate_operation_seconds').record(durationMs / 1000, { operation, outcome });
  for (const [phase, ms] of Object.entries(phases)) {
    meter('kybernate_phase_seconds').record(ms / 1000, { operation, phase });
  }
}

/** A ladder comes through a phase more than once. */
function phaseTimes(finished: OperationProgress['finished']): Record<string, number> {
  const phases: Record<string, number> = {};
  for (const { phase, durationMs } of finished) {
    phases[phase] = (phases[phase] ?? 0) + durationMs;
  }
  return phases;
}

/**
 * A step that failed and would have been tried again, had the operation not been cancelled: its error is not the reason.
 * A local activity that runs out of time is marked in the same way, without anybody having cancelled the operation.
 */
function reasonOf(error: unknown, cancelled: boolean): unknown {
  if (error instanceof ActivityFailure && cancelled && error.retryState === 'CANCEL_REQUESTED') {
    return new CancelledFailure('the operation was cancelled');
  }
  if (error instanceof ActivityFailure && !cancelled && isCancellation(error)) {
    return failure('Internal', `${error.activityType} did not end in time`, {}, error);
  }
  return error;
}

/** A workflow that ends drops the messages that it was still handling or sending. */
async function settle({ delivered }: Pick<OperationFrame<unknown>, 'delivered'>): Promise<void> {
  await condition(allHandlersFinished);
  await delivered();
}

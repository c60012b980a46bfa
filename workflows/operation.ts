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
} from '@temporalio/workflow';
import { messageOf } from '../core/errors.ts';
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
    count(node, outcome);
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
      count(node, OUTCOME_CANCELLED);
    } else {
      progress.end('failed', type, `${type}: ${messageOf(failed)}`);
      count(node, type);
    }
    throw failed;
  }
}

/** For alerts, `Poisoned` above all: read from the control worker, where KYBERNATE_METRICS_ADDRESS is set. */
function count(node: string, outcome: string): void {
  metricMeter
    .createCounter('kybernate_operations_ended', 'operations', 'Operations that have ended, by node and outcome')
    .add(1, { source_node: node, outcome });
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

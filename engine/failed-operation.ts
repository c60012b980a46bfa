/* What is told, and what is kept, of an operation that failed, when its workload was put in order again. */
import { isKybernateError, KybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { Capture } from './capture.ts';
import { failedLogsDir, pruneFailedLogs } from './failed-logs.ts';
import type { OperationPlan } from './operation.ts';

/**
 * @param failed why the operation ended
 * @param undoing its undo; waited for
 * @returns the error to report: an undo that failed is the greater one
 */
export async function errorAfterUndo(failed: unknown, undoing: Promise<unknown>): Promise<unknown> {
  try {
    await undoing;
  } catch (undoError) {
    return isKybernateError(undoError, 'Poisoned')
      ? new KybernateError('Poisoned', `${undoError.message} (after: ${String(failed)})`, {
          details: undoError.details,
          cause: failed,
        })
      : undoError;
  }
  return isKybernateError(failed, 'Poisoned') ? broughtBack(failed) : failed;
}

/** What a save could not bring back by itself runs by now, as the undo has read back: why it failed is left to tell. */
function broughtBack(poisoned: KybernateError): unknown {
  const { cause, message, details } = poisoned;
  if (isKybernateError(cause, 'Poisoned')) {
    return broughtBack(cause);
  }
  return (
    cause ??
    new KybernateError('DumpFailed', `${message}; a later try brought it back, and the container runs`, {
      details,
      cause: poisoned,
    })
  );
}

/** The evidence of a failed capture, after the undo; one that cannot be kept changes nothing. */
export async function keepFailedLogs(
  { settings, checkpointId }: OperationPlan,
  capture: Capture | undefined,
  log: Logger,
): Promise<void> {
  try {
    await capture?.saveLogs(failedLogsDir(settings, checkpointId));
    await pruneFailedLogs(settings);
  } catch (error) {
    log.error({ error: String(error) }, 'the logs of the failed capture could not be kept');
  }
}

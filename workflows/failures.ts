/* What a workflow fails with: always an ApplicationFailure whose type is a name of core/errors.ts, or a cancellation. */
import { ActivityFailure, ApplicationFailure, TimeoutFailure, isCancellation } from '@temporalio/workflow';
import type {
  ControlActivities,
  GarbageActivities,
  NodeControlActivities,
  TransferActivities,
} from '../activities/contract.ts';
import { parseInput } from '../core/contract/parse.ts';
import { ERRORS, isErrorType, isKybernateError, messageOf, type ErrorDetails, type ErrorType } from '../core/errors.ts';
import type { UndoReport } from './compensation.ts';

/** Name of the undo that lets the source run. */
export const RESUME = 'resumeContainer';

export function failure(
  type: ErrorType,
  message: string,
  details: ErrorDetails = {},
  cause?: Error,
): ApplicationFailure {
  return ApplicationFailure.create({
    type,
    message,
    nonRetryable: true,
    details: [{ remedy: ERRORS[type].remedy, workload: ERRORS[type].workload, ...details }],
    ...(cause === undefined ? {} : { cause }),
  });
}

/** @throws ApplicationFailure `InvalidInput` naming every wrong field: a plain error would only block the task */
export function parseOrFail<Schema extends Parameters<typeof parseInput>[0]>(
  schema: Schema,
  input: unknown,
): ReturnType<typeof parseInput<Schema>> {
  try {
    return parseInput(schema, input);
  } catch (error) {
    throw isKybernateError(error) ? failure(error.type, error.message, error.details) : error;
  }
}

/** Nobody took the step from the node's queue in time. */
export function isPickupTimeout(error: unknown): boolean {
  return (
    error instanceof ActivityFailure &&
    error.cause instanceof TimeoutFailure &&
    error.cause.timeoutType === 'SCHEDULE_TO_START'
  );
}

function isTimeout(error: unknown): boolean {
  return error instanceof ActivityFailure && error.cause instanceof TimeoutFailure;
}

/** The error type at the bottom of a failed step, if it has one. */
export function typeOf(error: unknown): string | undefined {
  if (error instanceof ApplicationFailure) {
    return error.type ?? undefined;
  }
  return error instanceof Error && error.cause !== undefined ? typeOf(error.cause) : undefined;
}

/** Turns what a step threw into what the workflow fails with; a cancellation stays one. */
export function asFailure(error: unknown, node: string): unknown {
  if (isCancellation(error)) {
    return error;
  }
  if (isTimeout(error)) {
    return timeoutFailure(error as ActivityFailure, node);
  }
  const inner = error instanceof ActivityFailure ? error.cause : error;
  if (inner instanceof ApplicationFailure && isErrorType(inner.type)) {
    return ApplicationFailure.create({
      type: inner.type,
      message: inner.message,
      nonRetryable: true,
      details: inner.details ?? [],
      ...(error instanceof ActivityFailure ? { cause: error } : {}),
    });
  }
  if (error instanceof ActivityFailure) {
    return failure('Internal', `${error.activityType}: ${messageOf(inner ?? error)}`, {}, error);
  }
  // A bug in workflow code blocks the task until it is fixed, as Temporal intends.
  return error;
}

/** What a user can do about a step of the sidecar that nobody took. */
export function noSidecar(node: string): string {
  return `no sidecar serves node ${node}: start \`kybernate sidecar\` there`;
}

/** Steps that the sidecar takes, not the worker of the node. */
const SIDECAR_STEPS: ReadonlySet<string> = new Set<keyof TransferActivities>([
  'uploadImage',
  'publishManifest',
  'prefetchPacks',
  'repairStored',
]);

/** Steps of the control worker: no node can be silent. */
const CONTROL_STEPS: ReadonlySet<string> = new Set<keyof ControlActivities | keyof GarbageActivities>([
  'requestLock',
  'isRunClosed',
  'findCheckpoint',
  'olderStored',
  'condemnGarbage',
  'confirmGarbage',
  'deleteGarbage',
  'forgetGarbage',
  'sweepLeftovers',
  'removeStored',
]);

/** Steps of a node that are too short for heartbeats: no answer in time is silence. */
const SHORT_STEPS: ReadonlySet<string> = new Set<keyof NodeControlActivities>([
  'probeNode',
  'resolveLocal',
  'olderLocal',
  'listCopies',
  'checkUnused',
  'inspectRestore',
  'confirmUpload',
]);

function timeoutFailure(error: ActivityFailure, node: string): ApplicationFailure {
  const step = error.activityType;
  const kind = (error.cause as TimeoutFailure).timeoutType;
  const ofSidecar = SIDECAR_STEPS.has(step);
  if (kind === 'SCHEDULE_TO_START') {
    const notTaken = ofSidecar ? noSidecar(node) : `the worker of node ${node} did not take the step ${step}`;
    return failure('NodeUnavailable', notTaken, { node, step }, error);
  }
  if (isSilence(error)) {
    const silent = `the ${ofSidecar ? 'sidecar' : 'worker'} of node ${node} went silent during ${step}`;
    return failure('NodeUnavailable', silent, { node, step }, error);
  }
  // Retries that ran out of time carry the error of the last attempt below the timeout.
  const type = typeOf(error);
  const message = `${step} on node ${node} did not end in time (${messageOf(error.cause)})`;
  return failure(isErrorType(type) ? type : 'Internal', message, { node, step, timeout: kind }, error);
}

/**
 * Nothing came from the step's worker any more. A step that runs out of time while its worker lives has its last error
 * below the timeout, or has only missed the end of its one attempt.
 */
function isSilence(error: ActivityFailure): boolean {
  const kind = (error.cause as TimeoutFailure).timeoutType;
  if (CONTROL_STEPS.has(error.activityType) || typeOf(error) !== undefined) {
    return false;
  }
  return kind !== 'START_TO_CLOSE' || SHORT_STEPS.has(error.activityType);
}

/**
 * What the operation ends with after its undo: the original error, unless something is left behind. `Poisoned` wins,
 * since somebody has to look at the workload now. A node that is gone is not a failed compensation: its runner and its
 * reconciler undo the rest without us.
 */
export function outcomeOf(error: unknown, report: UndoReport, node: string): unknown {
  const original = asFailure(error, node);
  if (report.failed.length === 0) {
    return withRollback(original, report);
  }
  const left = [...report.failed.map((entry) => entry.name), ...report.skipped];
  const details = {
    node,
    left,
    failed: report.failed.map(({ name, message, error: cause }) => ({
      name,
      message,
      type: typeOf(cause) ?? null,
      ...seenBy(cause),
    })),
    skipped: report.skipped,
    original: messageOf(original),
  };
  const cause = original instanceof Error ? { cause: original } : {};
  const text = report.failed.map((entry) => `${entry.name}: ${messageOf(asFailure(entry.error, node))}`).join('; ');
  const type: ErrorType = report.failed.some((entry) => typeOf(entry.error) === 'Poisoned')
    ? 'Poisoned'
    : report.failed.every((entry) => isTimeout(entry.error) && isNodeGone(asFailure(entry.error, node)))
      ? 'NodeUnavailable'
      : 'CompensationFailed';
  const message =
    type === 'NodeUnavailable'
      ? `node ${node} went away; left to its reconciler: ${left.join(', ')}; after: ${messageOf(original)}`
      : `undo on node ${node} failed (${text}); left: ${left.join(', ')}; after: ${messageOf(original)}`;
  return failure(type, message, details, cause.cause);
}

/** What the undo has read back of the source goes with the error; a cancellation shows it in the progress. */
function withRollback(original: unknown, { results }: UndoReport): unknown {
  const rollback = results[RESUME];
  if (rollback === undefined || rollback === null || !(original instanceof ApplicationFailure)) {
    return original;
  }
  const [first, ...rest] = original.details ?? [];
  return ApplicationFailure.create({
    message: original.message,
    nonRetryable: true,
    details: [{ ...(first as object | undefined), rollback }, ...rest],
    ...(original.type === null || original.type === undefined ? {} : { type: original.type }),
    ...(original.cause === undefined ? {} : { cause: original.cause }),
  });
}

/** What the undo has seen of the workload, the reason for a `Poisoned`. */
function seenBy(error: unknown): { readonly seen?: unknown } {
  if (error instanceof ApplicationFailure) {
    const seen = error.details?.[0];
    return seen === undefined || seen === null ? {} : { seen };
  }
  return error instanceof Error && error.cause !== undefined ? seenBy(error.cause) : {};
}

function isNodeGone(error: unknown): boolean {
  return error instanceof ApplicationFailure && error.type === 'NodeUnavailable';
}

import { WorkflowFailedError, type Client, type WorkflowHandle } from '@temporalio/client';
import { ApplicationFailure, defaultPayloadConverter } from '@temporalio/common';
import type { OperationProgress } from '../core/contract/progress.ts';
import { KybernateError, isErrorType, type ErrorDetails } from '../core/errors.ts';

export interface OperationHandle<Result> {
  readonly workflowId: string;
  readonly runId: string;
  /** @throws KybernateError with the type of docs/errors.md; Temporal's own error when cancelled or terminated */
  result(): Promise<Result>;
  /** @returns undefined while no worker answers */
  progress(): Promise<OperationProgress | undefined>;
  /** Asks the operation to stop at its next safe point and to undo what it made. */
  cancel(): Promise<void>;
  /** `after: hold`: lets the source run on now. */
  release(): Promise<void>;
}

export function operationHandle<Result>(client: Client, workflowId: string, runId: string): OperationHandle<Result> {
  const handle = client.workflow.getHandle(workflowId, runId);
  return {
    workflowId,
    runId,
    async result() {
      try {
        return (await handle.result()) as Result;
      } catch (error) {
        throw typedError(error);
      }
    },
    progress: () => progressOf(handle),
    async cancel() {
      await handle.cancel();
    },
    release: () => handle.signal('release'),
  };
}

function typedError(error: unknown): unknown {
  const cause = error instanceof WorkflowFailedError ? error.cause : undefined;
  if (cause instanceof ApplicationFailure && isErrorType(cause.type)) {
    return new KybernateError(cause.type, cause.message, {
      details: (cause.details?.[0] ?? {}) as ErrorDetails,
      cause: error,
    });
  }
  return error;
}

/** gRPC: nobody answered the query in time, or no worker polls. */
const NO_ANSWER = new Set([4, 9, 14]);

async function progressOf(handle: WorkflowHandle): Promise<OperationProgress | undefined> {
  try {
    const progress = await handle.query<OperationProgress>('progress');
    return progress.outcome === undefined ? { ...progress, ...(await heartbeatBytes(handle, progress)) } : progress;
  } catch (error) {
    // A query needs a running workflow worker; the operation itself goes on without an answer.
    if (error instanceof Error && NO_ANSWER.has(grpcCode(error))) {
      return undefined;
    }
    throw error;
  }
}

function grpcCode(error: Error): number {
  const cause = 'code' in error ? error : error.cause;
  return typeof cause === 'object' && cause !== null && 'code' in cause ? Number(cause.code) : -1;
}

/** The node's heartbeats are fresher than its signals, and never cross the workflow's history. */
async function heartbeatBytes(
  handle: WorkflowHandle,
  progress: OperationProgress,
): Promise<Pick<OperationProgress, 'bytesDone' | 'bytesTotal'>> {
  if (progress.nodes !== undefined) {
    // One heartbeat tells of one node; the signals of all are summed.
    return {};
  }
  const { raw } = await handle.describe();
  for (const { heartbeatDetails } of raw.pendingActivities ?? []) {
    const [payload] = heartbeatDetails?.payloads ?? [];
    const beat =
      payload === undefined ? undefined : defaultPayloadConverter.fromPayload<Partial<OperationProgress>>(payload);
    if (typeof beat?.bytesDone === 'number' && beat.bytesDone >= (progress.bytesDone ?? 0)) {
      return { bytesDone: beat.bytesDone, ...(beat.bytesTotal === undefined ? {} : { bytesTotal: beat.bytesTotal }) };
    }
  }
  return {};
}

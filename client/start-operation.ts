import { WorkflowExecutionAlreadyStartedError, type Client } from '@temporalio/client';
import { CONTROL_QUEUE } from '../core/task-queues.ts';
import { operationHandle, type OperationHandle } from './operation-handle.ts';

/** Temporal takes 400 bytes. Source: temporal, limit.userMetadataSummarySize. */
const MAX_SUMMARY = 130;

/**
 * Starts the operation, or joins the one of this workflow id: a running or completed one is returned as it is, a failed
 * one is tried anew.
 */
export async function startOperation<Result>(
  client: Client,
  type:
    | 'checkpoint'
    | 'collectGarbage'
    | 'deleteCheckpoint'
    | 'importCheckpoint'
    | 'inspectRestore'
    | 'listCopies'
    | 'preflight'
    | 'restore'
    | 'restoreProcess'
    | 'rehearse'
    | 'prefetch'
    | 'verifyCheckpoint'
    | 'repairCheckpoint',
  request: object,
  options: {
    readonly workflowId: string;
    readonly summary: string;
    /** for questions; an operation that makes or changes something must not be ended without its undo */
    readonly executionTimeoutMs?: number;
    /** one that is completed is run again, too: what it made may be gone */
    readonly again?: boolean;
  },
): Promise<OperationHandle<Result>> {
  const { workflowId, summary, executionTimeoutMs, again = false } = options;
  try {
    const handle = await client.workflow.start(type, {
      workflowId,
      taskQueue: CONTROL_QUEUE,
      args: [request],
      staticSummary: summary.slice(0, MAX_SUMMARY).toWellFormed(),
      ...(executionTimeoutMs === undefined ? {} : { workflowExecutionTimeout: executionTimeoutMs }),
      workflowIdConflictPolicy: 'USE_EXISTING',
      workflowIdReusePolicy: again ? 'ALLOW_DUPLICATE' : 'ALLOW_DUPLICATE_FAILED_ONLY',
    });
    return operationHandle(client, workflowId, handle.firstExecutionRunId);
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) {
      throw error;
    }
    const { runId } = await client.workflow.getHandle(workflowId).describe();
    return operationHandle(client, workflowId, runId);
  }
}

import { WorkflowExecutionAlreadyStartedError, WorkflowFailedError, type Client } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import type { PrefetchRequest } from '../core/contract/prefetch.ts';
import { isErrorType, KybernateError, messageOf } from '../core/errors.ts';
import { prefetchWorkflowId } from '../core/ids.ts';
import { CONTROL_QUEUE } from '../core/task-queues.ts';
import type { TransferWorkDeps } from './transfer-work.ts';

/** The workflow `prefetch` of a transfer: a later attempt of the transfer waits for the one that runs. */
export function prefetchByWorkflow(client: Client): TransferWorkDeps['prefetch'] {
  return async (transferId, { checkpointId, nodes, tier }, op) => {
    const workflowId = prefetchWorkflowId(checkpointId, transferId);
    const request: PrefetchRequest = { checkpointId, nodes: [...nodes], tier };
    const options = { workflowId, taskQueue: CONTROL_QUEUE, args: [request] };
    const handle = await client.workflow.start('prefetch', options).catch((error: unknown) => {
      if (error instanceof WorkflowExecutionAlreadyStartedError) {
        return client.workflow.getHandle(workflowId);
      }
      throw error;
    });
    const cancel = (): void => {
      handle.cancel().catch((error: unknown) => {
        op.log.warn({ workflowId, error: messageOf(error) }, 'prefetch not cancelled');
      });
    };
    op.signal.addEventListener('abort', cancel, { once: true });
    try {
      await handle.result();
    } catch (error) {
      op.signal.throwIfAborted();
      throw asOurs(error);
    } finally {
      op.signal.removeEventListener('abort', cancel);
    }
  };
}

function asOurs(error: unknown): unknown {
  const cause = error instanceof WorkflowFailedError ? error.cause : undefined;
  return cause instanceof ApplicationFailure && isErrorType(cause.type)
    ? new KybernateError(cause.type, cause.message, { cause: error })
    : error;
}

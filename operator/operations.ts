/* What the operator asks of Temporal, through the typed client; tests give literal objects in its place. */
import { WorkflowNotFoundError, type KybernateClient } from '../client/index.ts';
import type { CheckpointRequest, CheckpointResult } from '../core/contract/checkpoint.ts';
import { isKybernateError, messageOf, type ErrorType } from '../core/errors.ts';

export type CheckpointState =
  /** `step` is absent while no worker answers */
  | { readonly state: 'running'; readonly step?: string }
  | { readonly state: 'completed'; readonly result: CheckpointResult }
  | { readonly state: 'failed'; readonly type: ErrorType; readonly message: string }
  | { readonly state: 'cancelled' | 'terminated' }
  /** Temporal knows none of this id: never started, or forgotten since */
  | { readonly state: 'unknown' };

export interface Operations {
  /** Starts it, or joins the one of this workflow id. @throws InvalidInput */
  startCheckpoint(workflowId: string, request: CheckpointRequest): Promise<void>;
  look(workflowId: string): Promise<CheckpointState>;
  /** One that is over, or unknown, is left as it is. */
  cancel(workflowId: string): Promise<void>;
}

export function operationsOf(client: KybernateClient): Operations {
  return {
    async startCheckpoint(workflowId, request) {
      await client.checkpoint(request, { workflowId });
    },
    async look(workflowId) {
      try {
        return await lookAt(client, workflowId);
      } catch (error) {
        if (error instanceof WorkflowNotFoundError) {
          return { state: 'unknown' };
        }
        throw error;
      }
    },
    async cancel(workflowId) {
      try {
        await (await client.find(workflowId)).cancel();
      } catch (error) {
        // Temporal says the same of one that is over.
        if (!(error instanceof WorkflowNotFoundError)) {
          throw error;
        }
      }
    },
  };
}

async function lookAt(client: KybernateClient, workflowId: string): Promise<CheckpointState> {
  const { status, runId } = await client.describe(workflowId);
  const handle = await client.find(workflowId, runId);
  switch (status) {
    case 'COMPLETED':
      return { state: 'completed', result: (await handle.result()) as CheckpointResult };
    case 'FAILED':
    case 'TIMED_OUT':
      return { state: 'failed', ...(await failureOf(handle.result())) };
    case 'CANCELLED':
      return { state: 'cancelled' };
    case 'TERMINATED':
      return { state: 'terminated' };
    default: {
      // Of every other state it may still come to an end.
      const progress = await handle.progress();
      return { state: 'running', ...(progress === undefined ? {} : { step: progress.phase }) };
    }
  }
}

async function failureOf(result: Promise<unknown>): Promise<{ type: ErrorType; message: string }> {
  try {
    await result;
    return { type: 'Internal', message: 'it failed, and then it had a result' };
  } catch (error) {
    return { type: isKybernateError(error) ? error.type : 'Internal', message: messageOf(error) };
  }
}

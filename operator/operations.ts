/* What the operator asks of Temporal, through the typed client; tests give literal objects in its place. */
import { WorkflowNotFoundError, type KybernateClient } from '../client/index.ts';
import type { CheckpointRequest } from '../core/contract/checkpoint.ts';
import type { DeleteCheckpointRequest } from '../core/contract/delete-checkpoint.ts';
import type { ImportCheckpointRequest } from '../core/contract/import-checkpoint.ts';
import type { InspectRestoreRequest } from '../core/contract/inspect-restore.ts';
import type { OperationProgress } from '../core/contract/progress.ts';
import { isKybernateError, messageOf, type ErrorType } from '../core/errors.ts';
import type { Phase } from '../core/phases.ts';

export type OperationState =
  /** `step` is absent while no worker answers */
  | { readonly state: 'running'; readonly step?: string }
  /** with what the workflow of this id returns */
  | { readonly state: 'completed'; readonly result: unknown }
  | ({ readonly state: 'failed'; readonly type: ErrorType; readonly message: string } & Ended)
  | ({ readonly state: 'cancelled' | 'terminated' } & Ended)
  /** Temporal knows none of this id: never started, or forgotten since */
  | { readonly state: 'unknown' };

interface Ended {
  readonly endedAt?: Date;
  /** a checkpoint was committed before it ended; absent while no worker answers */
  readonly committed?: boolean;
}

export interface Operations {
  /** Starts it, or joins the one of this workflow id. @throws InvalidInput */
  startCheckpoint(workflowId: string, request: CheckpointRequest): Promise<void>;
  /** As `startCheckpoint`. */
  startImport(workflowId: string, request: ImportCheckpointRequest): Promise<void>;
  /** As `startCheckpoint`; one that has ended is run again. */
  startDelete(workflowId: string, request: DeleteCheckpointRequest): Promise<void>;
  /** As `startCheckpoint`; one that has failed is run again. */
  startInspect(workflowId: string, request: InspectRestoreRequest): Promise<void>;
  look(workflowId: string): Promise<OperationState>;
  /** One that is over, or unknown, is left as it is. */
  cancel(workflowId: string): Promise<void>;
  /** Those on which operations of this checkpoint ran, as far as Temporal remembers. */
  nodesOf(checkpointId: string): Promise<readonly string[]>;
}

export function operationsOf(client: KybernateClient): Operations {
  return {
    async startCheckpoint(workflowId, request) {
      await client.checkpoint(request, { workflowId });
    },
    async startImport(workflowId, request) {
      await client.importCheckpoint(request, { workflowId });
    },
    async startDelete(workflowId, request) {
      await client.deleteCheckpoint(request, { workflowId });
    },
    async startInspect(workflowId, request) {
      await client.inspectRestore(request, { workflowId });
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
    nodesOf: (checkpointId) => client.nodes({ checkpointId }),
  };
}

async function lookAt(client: KybernateClient, workflowId: string): Promise<OperationState> {
  const { status, runId, endedAt } = await client.describe(workflowId);
  const handle = await client.find(workflowId, runId);
  const ended = async (): Promise<Ended> => ({
    ...(endedAt === undefined ? {} : { endedAt: new Date(endedAt) }),
    // One whose request was refused cannot be asked for its progress.
    ...hasCommitted(await handle.progress().catch(() => ({ phase: 'failed', finished: [] }) as const)),
  });
  switch (status) {
    case 'COMPLETED':
      return { state: 'completed', result: await handle.result() };
    case 'FAILED':
    case 'TIMED_OUT':
      return { state: 'failed', ...(await failureOf(handle.result())), ...(await ended()) };
    case 'CANCELLED':
      return { state: 'cancelled', ...(await ended()) };
    case 'TERMINATED':
      return { state: 'terminated', ...(await ended()) };
    default: {
      // Of every other state it may still come to an end.
      const progress = await handle.progress();
      return { state: 'running', ...(progress === undefined ? {} : { step: progress.phase }) };
    }
  }
}

/** A `checkpoint` comes to these behind its commit alone. */
const BEHIND_COMMIT: ReadonlySet<Phase> = new Set<Phase>([
  'uploading',
  'publishing',
  'verifying',
  'holding',
  'stopping',
]);

function hasCommitted(progress: Pick<OperationProgress, 'phase' | 'finished'> | undefined): Pick<Ended, 'committed'> {
  return progress === undefined
    ? {}
    : { committed: [progress, ...progress.finished].some(({ phase }) => BEHIND_COMMIT.has(phase)) };
}

async function failureOf(result: Promise<unknown>): Promise<{ type: ErrorType; message: string }> {
  try {
    await result;
    return { type: 'Internal', message: 'it failed, and then it had a result' };
  } catch (error) {
    return { type: isKybernateError(error) ? error.type : 'Internal', message: messageOf(error) };
  }
}

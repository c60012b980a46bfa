/*
 * The typed client: what an operator, a controller or the CLI imports to start operations and follow them. A thin layer
 * over @temporalio/client; whoever prefers that one needs only the names `checkpoint`, `restore`, `rehearse` and the
 * queue `kybernate`.
 */
import { Client, WorkflowNotFoundError } from '@temporalio/client';
import { connect, type KybernateClientOptions } from './connect.ts';
import type { KybernateClient } from './kybernate-client.ts';
import { listOperations, nodesOf, summaryOf } from './list-operations.ts';
import { operationHandle, type OperationHandle } from './operation-handle.ts';
import { operations } from './operations.ts';

export type { CheckpointRequest, CheckpointResult } from '../core/contract/checkpoint.ts';
export type { CollectGarbageRequest, CollectGarbageResult } from '../core/contract/collect-garbage.ts';
export type { DeleteCheckpointRequest, DeleteCheckpointResult } from '../core/contract/delete-checkpoint.ts';
export type { ImportCheckpointRequest, ImportCheckpointResult } from '../core/contract/import-checkpoint.ts';
export type { InspectRestoreRequest, InspectRestoreResult } from '../core/contract/inspect-restore.ts';
export type { RehearseRequest, RehearseResult } from '../core/contract/gpu.ts';
export type { PrefetchRequest, PrefetchResult } from '../core/contract/prefetch.ts';
export type { ListCopiesRequest, ListCopiesResult } from '../core/contract/list-copies.ts';
export type { PreflightRequest, PreflightResult } from '../core/contract/preflight.ts';
export type { RestoreProcessRequest, RestoreProcessResult } from '../core/contract/process.ts';
export type { OperationProgress } from '../core/contract/progress.ts';
export type { RestoreRequest, RestoreResult } from '../core/contract/restore.ts';
export type { RepairRequest, RepairResult, VerifyRequest, VerifyResult } from '../core/contract/verify.ts';
export { ERRORS, KybernateError, isKybernateError, type ErrorType } from '../core/errors.ts';
export type { OperationFilter, OperationSummary } from './list-operations.ts';
export type { OperationHandle } from './operation-handle.ts';
export type { KybernateClientOptions } from './connect.ts';
export type { KybernateClient, PrefetchOptions, QuestionOptions, StartOptions } from './kybernate-client.ts';

export async function createKybernateClient(options: KybernateClientOptions = {}): Promise<KybernateClient> {
  const { connection, namespace } = await connect(options);
  const client = new Client({ connection, namespace, interceptors: { workflow: [...(options.interceptors ?? [])] } });
  return {
    namespace,
    ...operations(client),
    list: (filter = {}) => listOperations(client, filter),
    nodes: (of = {}) => nodesOf(client, of),
    async describe(workflowId, runId) {
      return summaryOf(await client.workflow.getHandle(workflowId, runId).describe());
    },
    find: (workflowId, runId) => findOperation(client, workflowId, runId),
    async close() {
      if (options.connection === undefined) {
        await connection.close();
      }
    },
  };
}

export { WorkflowNotFoundError };

async function findOperation(client: Client, workflowId: string, runId?: string): Promise<OperationHandle<unknown>> {
  const { runId: found } = await client.workflow.getHandle(workflowId, runId).describe();
  return operationHandle(client, workflowId, found);
}

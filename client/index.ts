/*
 * The typed client: what an operator, a controller or the CLI imports to start operations and follow them. A thin layer
 * over @temporalio/client; whoever prefers that one needs only the names `checkpoint`, `restore`, `rehearse` and the
 * queue `kybernate`.
 */
import {
  Client,
  Connection,
  WorkflowNotFoundError,
  type ConnectionLike,
  type WorkflowClientInterceptor,
} from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { checkpointInput, type CheckpointRequest, type CheckpointResult } from '../core/contract/checkpoint.ts';
import {
  collectGarbageInput,
  type CollectGarbageRequest,
  type CollectGarbageResult,
} from '../core/contract/collect-garbage.ts';
import type { ContainerTarget } from '../core/contract/common.ts';
import {
  deleteCheckpointInput,
  type DeleteCheckpointRequest,
  type DeleteCheckpointResult,
} from '../core/contract/delete-checkpoint.ts';
import { rehearseInput, type RehearseRequest, type RehearseResult } from '../core/contract/gpu.ts';
import {
  importCheckpointInput,
  type ImportCheckpointRequest,
  type ImportCheckpointResult,
} from '../core/contract/import-checkpoint.ts';
import {
  inspectRestoreInput,
  type InspectRestoreRequest,
  type InspectRestoreResult,
} from '../core/contract/inspect-restore.ts';
import { parseInput } from '../core/contract/parse.ts';
import { prefetchInput, type PrefetchRequest, type PrefetchResult } from '../core/contract/prefetch.ts';
import { listCopiesInput, type ListCopiesRequest, type ListCopiesResult } from '../core/contract/list-copies.ts';
import {
  restoreProcessInput,
  type RestoreProcessRequest,
  type RestoreProcessResult,
} from '../core/contract/process.ts';
import { preflightInput, type PreflightRequest, type PreflightResult } from '../core/contract/preflight.ts';
import { restoreInput, type RestoreRequest, type RestoreResult } from '../core/contract/restore.ts';
import {
  repairInput,
  verifyInput,
  type RepairRequest,
  type RepairResult,
  type VerifyRequest,
  type VerifyResult,
} from '../core/contract/verify.ts';
import {
  checkpointWorkflowId,
  collectGarbageWorkflowId,
  deleteCheckpointWorkflowId,
  importCheckpointWorkflowId,
  inspectRestoreWorkflowId,
  prefetchWorkflowId,
  listCopiesWorkflowId,
  preflightWorkflowId,
  rehearseWorkflowId,
  repairWorkflowId,
  restoreWorkflowId,
  verifyWorkflowId,
} from '../core/ids.ts';
import { listOperations, nodesOf, summaryOf, type OperationFilter, type OperationSummary } from './list-operations.ts';
import { operationHandle, type OperationHandle } from './operation-handle.ts';
import { startOperation } from './start-operation.ts';

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

export interface KybernateClientOptions {
  /** an open connection, a worker's too; it stays the caller's to close */
  readonly connection?: ConnectionLike;
  /** `host:port`; what TEMPORAL_* and temporal.toml say otherwise */
  readonly address?: string;
  /** TEMPORAL_NAMESPACE or the profile's otherwise, `default` at last */
  readonly namespace?: string;
  /** read instead of the process's environment */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** see every call to Temporal: traces, for example */
  readonly interceptors?: readonly WorkflowClientInterceptor[];
}

export interface StartOptions {
  /** whole workflow id; wins over `generation` */
  readonly workflowId?: string;
  /**
   * Names this wish, for example the generation of a Kubernetes object: the same wish again joins the running or
   * completed operation, and only a failed one is tried anew. Absent: every call is a new operation.
   */
  readonly generation?: string;
}

export interface PrefetchOptions extends StartOptions {
  /** an operation of this id that is completed is run again, too: what it brought may have been removed since */
  readonly again?: boolean;
}

export interface QuestionOptions extends StartOptions {
  /** Temporal ends the operation after so long, also when no worker has taken it up; absent: never */
  readonly executionTimeoutMs?: number;
}

export interface KybernateClient {
  readonly namespace: string;
  /** @throws InvalidInput before anything is started */
  checkpoint(request: CheckpointRequest, options?: StartOptions): Promise<OperationHandle<CheckpointResult>>;
  /** @throws InvalidInput before anything is started */
  restore(request: RestoreRequest, options?: StartOptions): Promise<OperationHandle<RestoreResult>>;
  /** A checkpoint of processes of the host. @throws InvalidInput before anything is started */
  restoreProcess(
    request: RestoreProcessRequest,
    options?: StartOptions,
  ): Promise<OperationHandle<RestoreProcessResult>>;
  /**
   * Saves and restores the GPU state of a container in place. A job that the driver cannot bring back is lost by it.
   * @throws InvalidInput before anything is started
   */
  rehearse(request: RehearseRequest, options?: StartOptions): Promise<OperationHandle<RehearseResult>>;
  /**
   * Looks whether the copies of a checkpoint are whole; damage is told in the result.
   * @throws InvalidInput before anything is started
   */
  verify(request: VerifyRequest, options?: StartOptions): Promise<OperationHandle<VerifyResult>>;
  /**
   * Makes damaged copies of a checkpoint whole from another one.
   * @throws InvalidInput before anything is started
   */
  repair(request: RepairRequest, options?: StartOptions): Promise<OperationHandle<RepairResult>>;
  /**
   * Deletes what no checkpoint of the store needs any more.
   * @throws InvalidInput before anything is started
   */
  collectGarbage(
    request: CollectGarbageRequest,
    options?: StartOptions,
  ): Promise<OperationHandle<CollectGarbageResult>>;
  /**
   * Brings a checkpoint to tiers of nodes; nodes that fail are told in the result.
   * @throws InvalidInput before anything is started
   */
  prefetch(request: PrefetchRequest, options?: PrefetchOptions): Promise<OperationHandle<PrefetchResult>>;
  /**
   * Would a checkpoint run on a node, can a container be checkpointed there? Reasons are told in the result; nothing is
   * touched.
   * @throws InvalidInput before anything is started
   */
  preflight(request: PreflightRequest, options?: StartOptions): Promise<OperationHandle<PreflightResult>>;
  /**
   * Asks a node of which checkpoints it has copies.
   * @throws InvalidInput before anything is started
   */
  listCopies(request: ListCopiesRequest, options?: QuestionOptions): Promise<OperationHandle<ListCopiesResult>>;
  /**
   * Removes a checkpoint from the store and from nodes, never from under somebody who uses it. One that is completed is run
   * again for the same id, too: what it removed may be there anew.
   * @throws InvalidInput before anything is started
   */
  deleteCheckpoint(
    request: DeleteCheckpointRequest,
    options?: StartOptions,
  ): Promise<OperationHandle<DeleteCheckpointResult>>;
  /**
   * Makes a checkpoint from an archive that the kubelet's checkpoint API has left on a node.
   * @throws InvalidInput before anything is started
   */
  importCheckpoint(
    request: ImportCheckpointRequest,
    options?: StartOptions,
  ): Promise<OperationHandle<ImportCheckpointResult>>;
  /**
   * Asks a node whether a pod's container was restored or began afresh.
   * @throws InvalidInput before anything is started
   */
  inspectRestore(
    request: InspectRestoreRequest,
    options?: StartOptions,
  ): Promise<OperationHandle<InspectRestoreResult>>;
  /** Newest first, from Temporal's visibility store, which lags by a second and forgets old ones. */
  list(filter?: OperationFilter): Promise<OperationSummary[]>;
  /**
   * Names of the nodes on which the newest operations ran, or those of one checkpoint; Temporal forgets old ones, and so
   * does this.
   * @throws InvalidInput
   */
  nodes(of?: { readonly checkpointId?: string }): Promise<string[]>;
  /** How an operation stands: its newest run, unless one is named. @throws WorkflowNotFoundError */
  describe(workflowId: string, runId?: string): Promise<OperationSummary>;
  /** An operation that somebody started. @throws WorkflowNotFoundError */
  find(workflowId: string, runId?: string): Promise<OperationHandle<unknown>>;
  close(): Promise<void>;
}

export async function createKybernateClient(options: KybernateClientOptions = {}): Promise<KybernateClient> {
  const { connection, namespace } = await connect(options);
  const client = new Client({ connection, namespace, interceptors: { workflow: [...(options.interceptors ?? [])] } });
  return {
    namespace,
    checkpoint(request, start = {}) {
      const input = parseInput(checkpointInput, request);
      const target = input.container === undefined ? `process-${input.process?.pid}` : targetOf(input.container);
      return startOperation(client, 'checkpoint', request, {
        workflowId: start.workflowId ?? checkpointWorkflowId(target, start.generation ?? newGeneration()),
        summary: `checkpoint ${target} on ${input.node}`,
      });
    },
    restore(request, start = {}) {
      const input = parseInput(restoreInput, request);
      const target = String(input.checkpointId ?? input.path);
      return startOperation(client, 'restore', request, {
        workflowId: start.workflowId ?? restoreWorkflowId(target, start.generation ?? newGeneration()),
        summary: `restore ${target} on ${input.node}`,
      });
    },
    restoreProcess(request, start = {}) {
      const input = parseInput(restoreProcessInput, request);
      const target = String(input.checkpointId ?? input.path);
      return startOperation(client, 'restoreProcess', request, {
        workflowId: start.workflowId ?? restoreWorkflowId(target, start.generation ?? newGeneration()),
        summary: `restore the processes of ${target} on ${input.node}`,
      });
    },
    rehearse(request, start = {}) {
      const input = parseInput(rehearseInput, request);
      const target = targetOf(input.container);
      return startOperation(client, 'rehearse', request, {
        workflowId: start.workflowId ?? rehearseWorkflowId(target, start.generation ?? newGeneration()),
        summary: `rehearse ${target} on ${input.node}`,
      });
    },
    verify(request, start = {}) {
      const { checkpointId, node } = parseInput(verifyInput, request);
      return startOperation(client, 'verifyCheckpoint', request, {
        workflowId: start.workflowId ?? verifyWorkflowId(checkpointId, start.generation ?? newGeneration()),
        summary: `verify ${checkpointId} on ${node}`,
      });
    },
    repair(request, start = {}) {
      const { checkpointId, node } = parseInput(repairInput, request);
      return startOperation(client, 'repairCheckpoint', request, {
        workflowId: start.workflowId ?? repairWorkflowId(checkpointId, start.generation ?? newGeneration()),
        summary: `repair ${checkpointId} on ${node}`,
      });
    },
    collectGarbage(request, start = {}) {
      const { dryRun } = parseInput(collectGarbageInput, request);
      return startOperation(client, 'collectGarbage', request, {
        workflowId: start.workflowId ?? collectGarbageWorkflowId(start.generation ?? newGeneration()),
        summary: dryRun ? 'garbage of the store, dry run' : 'garbage of the store',
      });
    },
    prefetch(request, start = {}) {
      const { checkpointId, nodes, tier } = parseInput(prefetchInput, request);
      return startOperation(client, 'prefetch', request, {
        workflowId: start.workflowId ?? prefetchWorkflowId(checkpointId, start.generation ?? newGeneration()),
        summary: `prefetch ${checkpointId} to ${tier} of ${nodes.length === 1 ? (nodes[0] ?? '') : `${nodes.length} nodes`}`,
        ...(start.again === undefined ? {} : { again: start.again }),
      });
    },
    preflight(request, start = {}) {
      const { checkpointId, container, node } = parseInput(preflightInput, request);
      const target = container === undefined ? String(checkpointId) : targetOf(container);
      return startOperation(client, 'preflight', request, {
        workflowId: start.workflowId ?? preflightWorkflowId(target, start.generation ?? newGeneration()),
        summary: `preflight of ${target} on ${node}`,
      });
    },
    listCopies(request, start = {}) {
      const { node } = parseInput(listCopiesInput, request);
      return startOperation(client, 'listCopies', request, {
        workflowId: start.workflowId ?? listCopiesWorkflowId(node, start.generation ?? newGeneration()),
        summary: `copies on ${node}`,
        ...(start.executionTimeoutMs === undefined ? {} : { executionTimeoutMs: start.executionTimeoutMs }),
      });
    },
    deleteCheckpoint(request, start = {}) {
      const { checkpointId } = parseInput(deleteCheckpointInput, request);
      return startOperation(client, 'deleteCheckpoint', request, {
        workflowId: start.workflowId ?? deleteCheckpointWorkflowId(checkpointId, start.generation ?? newGeneration()),
        summary: `delete ${checkpointId}`,
        again: true,
      });
    },
    importCheckpoint(request, start = {}) {
      const { archive, node } = parseInput(importCheckpointInput, request);
      return startOperation(client, 'importCheckpoint', request, {
        workflowId: start.workflowId ?? importCheckpointWorkflowId(archive, start.generation ?? newGeneration()),
        summary: `import ${archive} on ${node}`,
      });
    },
    inspectRestore(request, start = {}) {
      const { pod, node } = parseInput(inspectRestoreInput, request);
      const target = `${pod.uid}/${pod.container}`;
      return startOperation(client, 'inspectRestore', request, {
        workflowId: start.workflowId ?? inspectRestoreWorkflowId(target, start.generation ?? newGeneration()),
        summary: `how ${target} was started on ${node}`,
      });
    },
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

function targetOf({ id, pod, docker }: ContainerTarget): string {
  if (docker !== undefined) {
    return `docker/${docker}`;
  }
  return pod === undefined ? String(id) : `${pod.namespace}/${pod.name}/${pod.container}`;
}

async function connect(options: KybernateClientOptions): Promise<{ connection: ConnectionLike; namespace: string }> {
  if (options.connection !== undefined) {
    return { connection: options.connection, namespace: options.namespace ?? 'default' };
  }
  const env = options.env === undefined ? {} : { overrideEnvVars: present(options.env) };
  const config = loadClientConnectConfig(env);
  const address = options.address === undefined ? {} : { address: options.address };
  return {
    connection: await Connection.connect({ ...config.connectionOptions, ...address }),
    namespace: options.namespace ?? config.namespace ?? 'default',
  };
}

function present(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((pair): pair is [string, string] => pair[1] !== undefined));
}

/** Sorts by time; two calls in one millisecond differ by chance. */
function newGeneration(): string {
  return `${Date.now().toString(36)}-${Math.floor(Math.random() * 0x1_0000).toString(16)}`;
}

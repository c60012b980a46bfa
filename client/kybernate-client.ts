/* What the typed client offers. */
import type { CheckpointRequest, CheckpointResult } from '../core/contract/checkpoint.ts';
import type { CollectGarbageRequest, CollectGarbageResult } from '../core/contract/collect-garbage.ts';
import type { DeleteCheckpointRequest, DeleteCheckpointResult } from '../core/contract/delete-checkpoint.ts';
import type { RehearseRequest, RehearseResult } from '../core/contract/gpu.ts';
import type { ImportCheckpointRequest, ImportCheckpointResult } from '../core/contract/import-checkpoint.ts';
import type { InspectRestoreRequest, InspectRestoreResult } from '../core/contract/inspect-restore.ts';
import type { ListCopiesRequest, ListCopiesResult } from '../core/contract/list-copies.ts';
import type { PrefetchRequest, PrefetchResult } from '../core/contract/prefetch.ts';
import type { PreflightRequest, PreflightResult } from '../core/contract/preflight.ts';
import type { RestoreProcessRequest, RestoreProcessResult } from '../core/contract/process.ts';
import type { RestoreRequest, RestoreResult } from '../core/contract/restore.ts';
import type { RepairRequest, RepairResult, VerifyRequest, VerifyResult } from '../core/contract/verify.ts';
import type { OperationFilter, OperationSummary } from './list-operations.ts';
import type { OperationHandle } from './operation-handle.ts';

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

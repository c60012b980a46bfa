/* What the CLI needs of a running workflow; made from the client module, or written out in tests. */
import type { CheckpointRequest, CheckpointResult } from '../core/contract/checkpoint.ts';
import type { CollectGarbageRequest, CollectGarbageResult } from '../core/contract/collect-garbage.ts';
import type { RehearseRequest, RehearseResult } from '../core/contract/gpu.ts';
import type { OperationProgress } from '../core/contract/progress.ts';
import type { PrefetchRequest, PrefetchResult } from '../core/contract/prefetch.ts';
import type { ListCopiesRequest, ListCopiesResult } from '../core/contract/list-copies.ts';
import type { PreflightRequest, PreflightResult } from '../core/contract/preflight.ts';
import type { RestoreProcessRequest, RestoreProcessResult } from '../core/contract/process.ts';
import type { RestoreRequest, RestoreResult } from '../core/contract/restore.ts';
import type { OperationFilter, OperationSummary } from '../client/list-operations.ts';
import type { RepairRequest, RepairResult, VerifyRequest, VerifyResult } from '../core/contract/verify.ts';

export interface Operation<Result> {
  readonly workflowId: string;
  /** absent when the newest run of the workflow id is meant */
  readonly runId?: string | undefined;
  /** @throws what the workflow failed with */
  result(): Promise<Result>;
  /** @returns undefined while no worker has answered */
  progress(): Promise<OperationProgress | undefined>;
  /** Asks the workflow to stop at its next safe point and to undo what it made. */
  cancel(): Promise<void>;
  /** `after: hold`: lets the source run on now. */
  release(): Promise<void>;
}

export interface Operations {
  readonly namespace: string;
  /** `host:port` of the Temporal server; absent where nobody needs to be told */
  readonly address?: string;
  /** how many workers live that could take the operation; absent where nobody needs to be told */
  readonly controlWorkers?: (operation: Pick<Operation<unknown>, 'workflowId' | 'runId'>) => Promise<number>;
  checkpoint(request: CheckpointRequest, options: { workflowId?: string }): Promise<Operation<CheckpointResult>>;
  restore(request: RestoreRequest, options: { workflowId?: string }): Promise<Operation<RestoreResult>>;
  restoreProcess(
    request: RestoreProcessRequest,
    options: { workflowId?: string },
  ): Promise<Operation<RestoreProcessResult>>;
  rehearse(request: RehearseRequest, options: { workflowId?: string }): Promise<Operation<RehearseResult>>;
  verify(request: VerifyRequest, options: { workflowId?: string }): Promise<Operation<VerifyResult>>;
  repair(request: RepairRequest, options: { workflowId?: string }): Promise<Operation<RepairResult>>;
  collectGarbage(
    request: CollectGarbageRequest,
    options: { workflowId?: string },
  ): Promise<Operation<CollectGarbageResult>>;
  prefetch(request: PrefetchRequest, options: { workflowId?: string }): Promise<Operation<PrefetchResult>>;
  preflight(request: PreflightRequest, options: { workflowId?: string }): Promise<Operation<PreflightResult>>;
  /** Temporal ends it after the time, also when no worker has taken it up. */
  listCopies(
    request: ListCopiesRequest,
    options: { executionTimeoutMs?: number },
  ): Promise<Operation<ListCopiesResult>>;
  /** newest first */
  list(filter: OperationFilter): Promise<readonly OperationSummary[]>;
  /** of the newest operations */
  nodes(): Promise<readonly string[]>;
  /** @throws WorkflowNotFoundError, which is shown as OperationNotFound */
  find(workflowId: string, runId?: string): Promise<Operation<unknown>>;
  close(): Promise<void>;
}

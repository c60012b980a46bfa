/*
 * The activities by the queue that serves them: names, inputs and results only, so that workflows can be compiled
 * against them without the node's types. Names are the wire: a changed meaning gets a new name.
 */
import type {
  CaptureResult,
  CommitLocalInput,
  CommitLocalResult,
  PlanStepInput,
  PlanStepResult,
  ProbeInput,
  ProbeResult,
  PublishResult,
  ResumeResult,
  SaveGpuStateResult,
  StepContext,
  UploadResult,
} from '../core/contract/checkpoint.ts';
import type { CondemnResult, ConfirmResult, Leftovers } from '../core/contract/collect-garbage.ts';
import type { CopyRemoval, RemoveStepInput, StoredRemoval } from '../core/contract/delete-checkpoint.ts';
import type { ImportStepInput, ImportStepResult } from '../core/contract/import-checkpoint.ts';
import type { InspectRestoreInput, InspectRestoreResult } from '../core/contract/inspect-restore.ts';
import type { ListCopiesInput, ListCopiesResult } from '../core/contract/list-copies.ts';
import type { LockRequest } from '../core/contract/lock.ts';
import type {
  PreflightCheckpointInput,
  PreflightRestoreInput,
  PreflightStepResult,
} from '../core/contract/preflight.ts';
import type { PrefetchStepInput, PrefetchStepResult } from '../core/contract/prefetch.ts';
import type {
  CreateContainerInput,
  CreateColdInput,
  FetchImageResult,
  OlderInput,
  OlderResult,
  PlanRestoreInput,
  PlanRestoreResult,
  ResolveInput,
  ResolveResult,
  RestoreContext,
  StartRestoredResult,
} from '../core/contract/restore.ts';
import type { RestoredProcess, RestoreProcessOptions } from '../core/contract/process.ts';
import type { NodeRepair, PlaceReport, StoreRepair, VerifyMode } from '../core/contract/verify.ts';
import type { ContainerRef } from '../core/ids.ts';

export interface StepInput {
  readonly context: StepContext;
}

export interface PlanCheckpointInput extends PlanStepInput {
  readonly holdBudgetMs: number;
}

export interface RestoreStepInput {
  readonly context: RestoreContext;
}

export interface PlanRestoreStepInput extends PlanRestoreInput {
  /** directory of the checkpoint on the node, as `fetchImage` returned it */
  readonly localPath: string;
}

export interface StartRestoredInput extends RestoreStepInput {
  /** longest time for the runtime to bring the processes back */
  readonly restoreBudgetMs: number;
}

export interface FetchImageInput extends RestoreStepInput {
  /** `local` and `path` verify what is on the node; `store` brings it there, every chunk checked */
  readonly from: 'local' | 'store' | 'path';
}

export interface RestoreProcessStep extends RestoreStepInput, RestoreProcessOptions {
  /** directory of the checkpoint on the node, as `fetchImage` returned it */
  readonly localPath: string;
  readonly restoreBudgetMs: number;
}

/** Absent means: looked, and it is not there. A place that cannot be looked at is an error. */
export interface Resolved {
  readonly found?: ResolveResult;
}

export interface TransferInput {
  readonly checkpointId: string;
}

export type ListCopiesStepInput = Pick<ListCopiesInput, 'node' | 'limit'>;

export type InspectRestoreStepInput = Pick<InspectRestoreInput, 'node' | 'pod'>;

export interface SurveyInput extends TransferInput {
  readonly mode: VerifyMode;
}

export interface VerifyRemoteResult {
  readonly files: number;
  /** read back from the store, as stored there */
  readonly bytes: number;
}

export interface RequestLockInput {
  readonly container: ContainerRef;
  readonly request: LockRequest;
}

export interface RunRef {
  readonly workflowId: string;
  readonly runId: string;
}

/** Queue `kybernate-node-<node>`: few slots, minutes long. */
export interface NodeActivities {
  planCheckpoint(input: PlanCheckpointInput): Promise<PlanStepResult>;
  startRunner(input: StepInput): Promise<void>;
  saveGpuState(input: StepInput): Promise<SaveGpuStateResult>;
  captureContainer(input: StepInput): Promise<CaptureResult>;
  commitLocal(input: CommitLocalInput): Promise<CommitLocalResult>;
  planRestore(input: PlanRestoreStepInput): Promise<PlanRestoreResult>;
  createContainer(input: CreateContainerInput): Promise<void>;
  /** makes the container of a cold start; `startRestored` starts it */
  createCold(input: CreateColdInput): Promise<void>;
  startRestored(input: StartRestoredInput): Promise<StartRestoredResult>;
  /** would the processes of this checkpoint come back here? Touches nothing */
  planProcessRestore(input: RestoreProcessStep): Promise<{ readonly warnings: readonly string[] }>;
  restoreProcess(input: RestoreProcessStep): Promise<RestoredProcess>;
}

/** Queue `kybernate-node-<node>-ctl`: never waits behind work; every one may be repeated. */
export interface NodeControlActivities {
  probeNode(input: ProbeInput): Promise<ProbeResult>;
  resumeContainer(input: StepInput): Promise<ResumeResult>;
  stopContainer(input: StepInput): Promise<ResumeResult>;
  endOperation(input: StepInput): Promise<void>;
  discardCapture(input: StepInput): Promise<void>;
  /** the operation saved and restored GPU state in place: later checkpoints of the same processes need no other proof */
  recordRehearsal(input: StepInput): Promise<void>;
  abandonUpload(input: TransferInput): Promise<void>;
  /** the checkpoint is in the store: the mark `upload.pending`, which only root can remove, goes */
  confirmUpload(input: TransferInput): Promise<void>;
  resolveLocal(input: ResolveInput): Promise<Resolved>;
  /** the checkpoints of which this node has a copy */
  listCopies(input: ListCopiesStepInput): Promise<ListCopiesResult>;
  /** on this node's disk */
  olderLocal(input: OlderInput): Promise<OlderResult>;
  /** would this checkpoint run here? Reads its description alone, from the store where the node has no copy */
  preflightRestore(input: PreflightRestoreInput): Promise<PreflightStepResult>;
  /** can this container be checkpointed here? */
  preflightCheckpoint(input: PreflightCheckpointInput): Promise<PreflightStepResult>;
  /** is the copy of this node free to go? @throws CheckpointInUse */
  checkUnused(input: RemoveStepInput): Promise<void>;
  /** removes the copy of this node, never from under a restore */
  removeCopy(input: RemoveStepInput): Promise<CopyRemoval>;
  /** how a container of a pod that asked for a restore has begun to run */
  inspectRestore(input: InspectRestoreStepInput): Promise<InspectRestoreResult>;
  removeRestored(input: RestoreStepInput): Promise<void>;
  releaseRestoreLease(input: RestoreStepInput): Promise<void>;
  /** ends what a restore of processes has made, whole or half */
  removeRestoredProcess(input: RestoreStepInput): Promise<void>;
}

/** Queue `kybernate-node-<node>-fetch`: from the store, through the sidecar, or from an archive, to files of root. */
export interface FetchActivities {
  fetchImage(input: FetchImageInput): Promise<FetchImageResult>;
  /** replaces the copy on this node by that of the store, every chunk checked */
  repairNodeCopy(input: TransferInput): Promise<NodeRepair>;
  /** makes a checkpoint of this node from an archive of the kubelet's checkpoint API */
  importArchive(input: ImportStepInput): Promise<ImportStepResult>;
}

/** Queue `kybernate-node-<node>-verify`: reads whole checkpoints, and writes none. */
export interface VerifyActivities {
  /** reads a checkpoint back from the store, every byte: the sidecar that sent it is not asked whether it is whole */
  verifyRemote(input: TransferInput): Promise<VerifyRemoteResult>;
  /** tells every damage of the copy in the store */
  surveyStored(input: SurveyInput): Promise<PlaceReport>;
  /** tells every damage of the copy on this node */
  surveyNodeCopy(input: SurveyInput): Promise<PlaceReport>;
}

/** Queue `kybernate-node-<node>-transfer`: served by the sidecar, which reads the files of checkpoints and no more. */
export interface TransferActivities {
  uploadImage(input: TransferInput): Promise<UploadResult>;
  publishManifest(input: TransferInput): Promise<PublishResult>;
  /** brings the packs of a checkpoint to a tier of this node */
  prefetchPacks(input: PrefetchStepInput): Promise<PrefetchStepResult>;
  /** sends again what is damaged in the store */
  repairStored(input: TransferInput): Promise<StoreRepair>;
}

/** Queue `kybernate`, too: the steps of a garbage collection, by the number of its round, and removals. */
export interface GarbageActivities {
  /** marks, and condemns what no manifest names; with `dryRun` it only tells */
  condemnGarbage(input: {
    readonly round: number;
    readonly dryRun: boolean;
  }): Promise<CondemnResult & { readonly store: string }>;
  confirmGarbage(input: {
    readonly round: number;
    readonly listId: string;
    readonly lists: number;
  }): Promise<ConfirmResult>;
  /** @param input.list number of the list, from 0 */
  deleteGarbage(input: { readonly round: number; readonly listId: string; readonly list: number }): Promise<void>;
  /** lifts the sentence of a round that has not begun to delete */
  forgetGarbage(input: { readonly round: number }): Promise<void>;
  sweepLeftovers(input: { readonly dryRun: boolean }): Promise<Leftovers>;
  /** removes a checkpoint from the store, its manifest first. @throws CheckpointInUse */
  removeStored(input: RemoveStepInput): Promise<StoredRemoval>;
}

/** Queue `kybernate`: served by the control worker, no node involved. */
export interface ControlActivities {
  requestLock(input: RequestLockInput): Promise<void>;
  isRunClosed(input: RunRef): Promise<{ closed: boolean }>;
  findCheckpoint(input: { readonly checkpointId: string }): Promise<Resolved>;
  /** in the store */
  olderStored(input: OlderInput): Promise<OlderResult>;
}

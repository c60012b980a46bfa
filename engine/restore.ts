/*
 * A checkpoint brought back as a new container of this node: first what can be known before anything is made, then the
 * container. restore-start.ts has the rest: start and undo. Every step may be repeated by another attempt or another
 * worker process; the container and its snapshot carry the operation's id.
 */
import type { Metadata } from '../core/checkpoint/metadata.ts';
import type {
  CreateContainerInput,
  PlanRestoreInput,
  PlanRestoreResult,
  RestoreContext,
} from '../core/contract/restore.ts';
import { LABELS } from '../core/oci/annotations.ts';
import { restoredSpec } from '../core/oci/restored-spec.ts';
import { ID_MAPPING_LABELS } from '../core/oci/user-namespace.ts';
import type { OciSpec } from '../core/oci/spec.ts';
import type { Op } from '../core/op.ts';
import { warningTexts } from '../core/preflight.ts';
import { encodeRuncOptions } from '../native/containerd/runc-options.ts';
import { type Captured, readCaptured, specInput } from './captured.ts';
import type { GpuRestorePlan } from './gpu/restore-target.ts';
import { planGpu, reservationOf } from './gpu/restore-steps.ts';
import { withImageHere } from './imported-image.ts';
import type { NodeDeps } from './node-deps.ts';
import { oneAtATime } from './one-at-a-time.ts';
import { makeOwnPlaces, ownMountsFor } from './own-places.ts';
import { checkToken, listOperations, type OperationPlan } from './operation.ts';
import { claimOperation, isEarlierRun, readOwner } from './operation-owner.ts';
import { asStep } from './operation-steps.ts';
import { refuseFor } from './preflight/refuse.ts';
import { surveyRestore } from './preflight/restore.ts';
import { writeNote } from './restore-notes.ts';
import { readRestore, takeLease, writeRestore, type RestoreRecord } from './restore-operation.ts';
import { bareImageDir } from './restore-source.ts';
import { endRestore } from './restore-end.ts';
import { ownContainer, snapshotKeyOf } from './restore-start.ts';

/** The budget is set by the start; until then this is what a wrapper that asks too early is told. */
const NO_BUDGET_MS = 30_000;

/** Labels by which other managers find their containers; a copy must not look like one of theirs. */
const FOREIGN_LABELS = ['io.cri-containerd', 'io.kubernetes.', 'nerdctl/', 'containerd.io/gc.', 'kybernate.io/'];

/** The operation, and the run of the workflow that drives it. */
export interface OperationRun {
  readonly operationId: string;
  readonly workflow: OperationPlan['workflow'];
}

/**
 * Everything that can be known before anything is made; leases the checkpoint on this node.
 * @param input `checkpointDir` holds a committed checkpoint
 * @throws Incompatible with every reason, LockLost, CheckpointNotFound, CheckpointCorrupt, InvalidInput
 */
export async function planRestore(
  deps: NodeDeps,
  op: Op,
  input: PlanRestoreInput & OperationRun & { readonly checkpointDir: string },
): Promise<PlanRestoreResult> {
  const { context, operationId, checkpointDir } = input;
  await claimRestore(deps, op, input);
  await ownContainer(deps, { operationId, container: context.container });
  const { findings, gpu } = await surveyRestore(deps, readCaptured(checkpointDir), { ...input, missingBytes: 0 });
  op.signal.throwIfAborted();
  refuseFor(findings, context.checkpointId ?? checkpointDir, deps);
  return { warnings: warningTexts(findings), ...(gpu === undefined ? {} : { gpuMap: gpu.map }) };
}

/**
 * The start of a plan: this run of the operation is the newest, and the checkpoint stays until it has ended.
 * @throws LockLost
 */
export async function claimRestore(deps: NodeDeps, op: Op, input: PlanRestoreInput & OperationRun): Promise<void> {
  const { context, operationId, workflow } = input;
  const { checkpointId } = context;
  checkToken(deps.settings, context.container, context.token);
  await endEarlierRuns(deps, op, input);
  claimOperation(deps.settings, operationId, { workflow, ...(checkpointId === undefined ? {} : { checkpointId }) });
  if (checkpointId !== undefined) {
    takeLease(deps.settings, checkpointId, operationId);
  }
}

/**
 * Makes container and snapshot, and registers the restore for the wrapper's call. The container first: it refers to the
 * snapshot, which containerd's garbage collector would otherwise take between the two.
 * @throws InvalidInput the id belongs to another container, LockLost, CheckpointNotFound, Incompatible the GPUs were
 * taken since the plan
 */
export async function createRestoreContainer(
  deps: NodeDeps,
  op: Op,
  input: CreateContainerInput & OperationRun,
): Promise<void> {
  return asStep(input.operationId, () => createOnce(deps, op, input));
}

async function createOnce(deps: NodeDeps, op: Op, input: CreateContainerInput & OperationRun): Promise<void> {
  const { context, operationId, localPath } = input;
  checkToken(deps.settings, context.container, context.token);
  const captured = await withImageHere(deps, context.container.namespace, readCaptured(localPath));
  const { snapshotKey } = snapshotFor(captured.metadata, operationId);
  const spec = await oneAtATime(() => register(deps, input, captured, snapshotKey));
  await makeContainer(deps, op, { context, operationId, metadata: captured.metadata, spec });
}

/** The writable layer of the new container: named by the operation, empty for a root that is not a snapshot. */
export function snapshotFor(
  { rootfs }: Metadata,
  operationId: string,
): { readonly snapshotKey: string; readonly snapshotter: string } {
  const none = rootfs.method === 'none' || rootfs.parent === undefined;
  return { snapshotKey: none ? '' : snapshotKeyOf(operationId), snapshotter: rootfs.snapshotter ?? 'overlayfs' };
}

/** Idempotent; the record comes first. @throws InvalidInput the id belongs to another container */
export async function makeContainer(
  deps: NodeDeps,
  op: Op,
  made: {
    readonly context: RestoreContext;
    readonly operationId: string;
    readonly metadata: Metadata;
    readonly spec: OciSpec;
  },
): Promise<void> {
  const { context, operationId, metadata, spec } = made;
  const { namespace, id } = context.container;
  const { snapshotKey, snapshotter } = snapshotFor(metadata, operationId);
  const existing = await ownContainer(deps, { operationId, container: context.container });
  // Late steps of an operation that was ended meanwhile find their token refused: at every act, not at the begin alone.
  checkToken(deps.settings, context.container, context.token);
  if (existing === undefined) {
    await deps.containerd.createContainer(namespace, {
      id,
      labels: labelsOf(metadata, operationId, context),
      image: await imageOf(deps, namespace, metadata),
      runtime: {
        name: deps.settings.restoreRuntime,
        // the form `slice:prefix:name` means nothing to runc without it
        ...(spec.linux?.cgroupsPath?.includes(':') === true
          ? { options: encodeRuncOptions({ systemdCgroup: true }) }
          : {}),
      },
      spec: JSON.stringify(spec),
      snapshotter: snapshotKey === '' ? '' : snapshotter,
      snapshotKey,
      sandboxId: '',
    });
  }
  const { parent, idMapping } = metadata.rootfs;
  if (snapshotKey !== '' && parent !== undefined) {
    checkToken(deps.settings, context.container, context.token);
    if ((await deps.containerd.statSnapshot(namespace, snapshotter, snapshotKey)) === undefined) {
      await deps.containerd.prepareSnapshot(namespace, snapshotter, snapshotKey, parent, {
        [LABELS.operation]: operationId,
        ...(idMapping === undefined
          ? {}
          : { [ID_MAPPING_LABELS.uid]: idMapping.uid, [ID_MAPPING_LABELS.gid]: idMapping.gid }),
      });
    }
  }
  op.log.info({ operationId, container: id, namespace, checkpointId: context.checkpointId }, 'container made');
}

/** What an earlier run has left would hold the container until the next reconciliation. */
export async function endEarlierRuns(deps: NodeDeps, op: Op, { operationId, workflow }: OperationRun): Promise<void> {
  for (const other of await listOperations(deps.settings)) {
    const owner = readOwner(deps.settings, other);
    if (other !== operationId && owner?.workflow !== undefined && isEarlierRun(owner.workflow, workflow)) {
      await endRestore(deps, op, other);
    }
  }
}

/** Writes the record, with which the room on the GPUs is taken, and makes the container's places. @returns the specification of the container */
async function register(
  deps: NodeDeps,
  input: CreateContainerInput & OperationRun,
  captured: Captured,
  snapshotKey: string,
): Promise<OciSpec> {
  const { operationId, localPath } = input;
  const known = readRestore(deps.settings, operationId);
  const gpu = known?.gpu ?? (await gpuNow(deps, captured.metadata, operationId, input));
  const own = ownMountsFor(deps.settings, operationId, captured);
  const spec = restoredSpec({
    ...specInput(captured, { ...input, fit: gpu?.fit, own }),
    onFailure: input.onFailure,
  });
  const noted = snapshotKey === '' ? '' : (captured.metadata.rootfs.snapshotter ?? 'overlayfs');
  registerRestore(deps, input, {
    checkpointDir: localPath,
    imageDir: bareImageDir(localPath),
    hasMetadata: true,
    snapshotter: noted,
    tcp: input.tcp,
    onFailure: input.onFailure,
    terminal: captured.metadata.stdio.terminal,
    attempt: known?.attempt ?? 0,
    ...reservationOf(gpu),
  });
  await makeOwnPlaces(deps.settings, operationId, input.context.container, own.places);
  return spec;
}

type Registered =
  'operationId' | 'container' | 'token' | 'madeBy' | 'checkpointId' | 'restoreBudgetMs' | 'stdio' | 'state';

/**
 * Owner, note and record of a restore that our own step makes; one that is known keeps its state and its budget.
 * Crash: what of them is there names the operation, and `endRestore` finds it.
 */
export function registerRestore(
  { settings }: NodeDeps,
  { context, operationId, workflow, stdio }: Pick<CreateContainerInput, 'context' | 'stdio'> & OperationRun,
  record: Omit<RestoreRecord, Registered>,
): void {
  const known = readRestore(settings, operationId);
  const { container, token } = context;
  const owned = context.checkpointId === undefined ? {} : { checkpointId: context.checkpointId };
  claimOperation(settings, operationId, { workflow, ...owned });
  writeNote(settings, {
    operationId,
    workflow,
    container,
    token,
    snapshotter: record.snapshotter,
    ...(record.docker === undefined ? {} : { docker: record.docker }),
  });
  writeRestore(settings, {
    ...record,
    operationId,
    container,
    token,
    madeBy: 'worker',
    ...owned,
    restoreBudgetMs: known?.restoreBudgetMs ?? NO_BUDGET_MS,
    stdio: { kind: stdio.kind, ...(stdio.path === undefined ? {} : { path: stdio.path }) },
    state: known?.state ?? 'registered',
  });
}

/** The plan once more, since others may have come between; from here on it is reserved. */
export async function gpuNow(
  deps: NodeDeps,
  metadata: Metadata,
  operationId: string,
  { context, gpuMap, avoidGpus = [] }: Pick<CreateContainerInput, 'context' | 'gpuMap' | 'avoidGpus'>,
): Promise<GpuRestorePlan | undefined> {
  const answer = await planGpu(deps, metadata, { operationId, map: gpuMap, avoid: avoidGpus });
  refuseFor(answer.findings, context.checkpointId ?? metadata.checkpointId, deps);
  return answer.plan;
}

function labelsOf(metadata: Metadata, operationId: string, context: RestoreContext): Record<string, string> {
  const kept = Object.entries(metadata.container.labels).filter(
    ([key]) => !FOREIGN_LABELS.some((prefix) => key.startsWith(prefix)),
  );
  return {
    ...Object.fromEntries(kept),
    [LABELS.operation]: operationId,
    [LABELS.restoredFrom]: context.checkpointId ?? metadata.checkpointId,
  };
}

/** A name that this node does not know would make tools stumble over the container. */
async function imageOf(deps: NodeDeps, namespace: string, metadata: Metadata): Promise<string> {
  const ref = metadata.container.image?.ref;
  return ref !== undefined && (await deps.containerd.getImage(namespace, ref)) !== undefined ? ref : '';
}

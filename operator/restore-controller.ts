/*
 * A `Restore` makes one pod whose container is restored: the annotation `kybernate.io/restore-from` makes the runtime on
 * the node join the workflow that brings the state back, and the pod tells the rest, but how its container began: that the
 * node is asked. The pod outlives the object.
 */
import {
  kubernetesRestoreSpec,
  type Condition,
  type KubernetesRestoreSpec,
  type KubernetesRestoreStatus,
} from '../core/contract/kubernetes.ts';
import type { InspectRestoreResult } from '../core/contract/inspect-restore.ts';
import { parseInput } from '../core/contract/parse.ts';
import { ERRORS, KybernateError, isErrorType, isKybernateError, type ErrorType } from '../core/errors.ts';
import { objectWorkflowId } from '../core/ids.ts';
import { FINALIZER, identityOf, type Identity, type RestoreObject } from './objects.ts';
import type { Pod } from './plain.ts';
import { containerOfPod, RESTORE_LABEL, podOfRestore } from './pods.ts';
import { isFinal, keep, letGo, refOf, writeStatus, type ControllerDeps } from './turn.ts';

const LOOK_MS = 2_000;
/** Between two looks at a question to a node, which answers at once or is away. */
const ANSWER_LOOK_MS = 300;
/** How long a pod that is ready waits for its node's word on how it began: a node worker that restarts takes less. */
const ANSWER_MS = 60_000;
type Deps = ControllerDeps;

/** One turn. @returns ms until the next one; undefined: not before the object changes */
export async function handleRestore(deps: Deps, object: RestoreObject): Promise<number | undefined> {
  const identity = identityOf(object);
  if (identity.isDeleted) {
    return endRestore(deps, object, identity);
  }
  if (isFinal(object.status?.phase)) {
    return undefined;
  }
  await keep(deps.cluster, refOf('Restore', identity), object);
  const turn: Turn = { deps, identity, status: object.status };
  try {
    const spec = parseInput(kubernetesRestoreSpec, object.spec);
    const name = spec.pod ?? identity.name;
    const pod = await deps.cluster.pod(identity.namespace, name);
    if (pod === undefined && object.status?.podUid !== undefined) {
      const message = `pod ${name} was deleted before it was ready`;
      return await write(turn, { phase: 'Failed' }, { status: 'False', reason: 'ContainerNotFound', message });
    }
    return await (pod === undefined ? makePod(turn, spec, name) : follow(turn, spec, pod));
  } catch (error) {
    if (isKybernateError(error)) {
      return write(turn, { phase: 'Failed' }, { status: 'False', reason: error.type, message: error.message });
    }
    throw error;
  }
}

interface Turn {
  readonly deps: Deps;
  readonly identity: Identity;
  readonly status: KubernetesRestoreStatus | undefined;
}

interface Source {
  readonly checkpointId: string;
  readonly template: Readonly<Record<string, unknown>>;
  readonly container: string | undefined;
  readonly hasGpu: boolean;
}

async function makePod(turn: Turn, spec: KubernetesRestoreSpec, name: string): Promise<number | undefined> {
  const { deps, identity } = turn;
  const source = await sourceOf(turn, spec);
  if ('waitFor' in source) {
    await write(turn, { phase: 'Pending' }, { status: 'False', reason: 'CheckpointNotReady', message: source.waitFor });
    return LOOK_MS;
  }
  const { pod, container } = podOfRestore({
    namespace: identity.namespace,
    name,
    uid: identity.uid,
    template: spec.template ?? source.template,
    checkpointId: source.checkpointId,
    container: spec.container ?? source.container,
    node: spec.node,
    runtimeClassName: spec.runtimeClassName,
    defaultRuntimeClassName: source.hasGpu ? 'kybernate-gpu' : 'kybernate',
    tcp: spec.tcp,
    onFailure: spec.onFailure,
  });
  const made = await deps.cluster.createPod(identity.namespace, pod);
  if (made === undefined) {
    // Somebody was quicker, perhaps this operator before it died: the next turn looks whose it is.
    return LOOK_MS;
  }
  const begun = {
    phase: 'Restoring',
    checkpointId: source.checkpointId,
    pod: name,
    podUid: made.metadata?.uid ?? '',
    container,
    startedAt: deps.now().toISOString(),
  } as const;
  await write(turn, begun, { status: 'False', reason: 'Restoring', message: `pod ${name} was made` });
  return LOOK_MS;
}

/** @throws CheckpointNotFound, InvalidInput, or that of a checkpoint that failed */
async function sourceOf({ deps, identity }: Turn, spec: KubernetesRestoreSpec): Promise<Source | { waitFor: string }> {
  if (spec.checkpoint === undefined) {
    return {
      checkpointId: spec.checkpointId ?? '',
      template: spec.template ?? {},
      container: undefined,
      hasGpu: false,
    };
  }
  const checkpoint = await deps.cluster.checkpoint(identity.namespace, spec.checkpoint);
  const status = checkpoint?.status;
  if (checkpoint !== undefined && identityOf(checkpoint).isDeleted) {
    return { waitFor: `waiting for checkpoint ${spec.checkpoint}: it is being deleted` };
  }
  if (status?.phase === 'Failed' || status?.phase === 'Cancelled') {
    throw new KybernateError(
      'CheckpointNotFound',
      `checkpoint ${spec.checkpoint} has not become one: ${status.conditions?.[0]?.message ?? status.phase}`,
    );
  }
  if (checkpoint === undefined || status?.phase !== 'Ready' || status.checkpointId === undefined) {
    const what = checkpoint === undefined ? 'there is no such object yet' : `it is ${status?.phase ?? 'new'}`;
    return { waitFor: `waiting for checkpoint ${spec.checkpoint}: ${what}` };
  }
  if (status.podTemplate === undefined && spec.template === undefined) {
    throw new KybernateError(
      'InvalidInput',
      `template: checkpoint ${spec.checkpoint} was imported, and no object has seen its pod: say what the pod is to be`,
    );
  }
  return {
    checkpointId: status.checkpointId,
    template: status.podTemplate ?? {},
    container: status.container,
    hasGpu: (status.gpuProcesses ?? 0) > 0,
  };
}

/** Tells how far the pod is. */
async function follow(turn: Turn, spec: KubernetesRestoreSpec, pod: Pod): Promise<number | undefined> {
  const { deps, identity, status } = turn;
  const name = pod.metadata?.name ?? '';
  if (pod.metadata?.labels?.[RESTORE_LABEL] !== identity.uid) {
    throw new KybernateError(
      'InvalidInput',
      `pod ${name} exists and is not this restore's: name another one in spec.pod`,
    );
  }
  const facts = {
    pod: name,
    podUid: pod.metadata.uid ?? '',
    ...(pod.spec?.nodeName === undefined ? {} : { node: pod.spec.nodeName }),
  };
  const ready = pod.status?.conditions?.find(({ type, status: is }) => type === 'Ready' && is === 'True');
  if (ready !== undefined) {
    const since = new Date(ready.lastTransitionTime ?? deps.now());
    return tellHow(turn, { facts, since, container: status?.container ?? containerOfPod(pod, spec.container) });
  }
  const { message, type, isLast } = trouble(pod);
  const begun = status?.startedAt === undefined ? deps.now() : new Date(status.startedAt);
  const isLate = deps.now().getTime() - begun.getTime() > spec.readyWaitMs;
  if (isLast || isLate) {
    const late = isLate && !isLast ? `not ready in ${spec.readyWaitMs} ms: ` : '';
    return write(
      turn,
      { phase: 'Failed', ...facts },
      { status: 'False', reason: type ?? 'RestoreFailed', message: `${late}${message}` },
    );
  }
  await write(turn, { phase: 'Restoring', ...facts }, { status: 'False', reason: type ?? 'Restoring', message });
  return LOOK_MS;
}

interface ReadyPod {
  readonly facts: Partial<KubernetesRestoreStatus>;
  /** when it became ready */
  readonly since: Date;
  /** the one that was to be restored */
  readonly container: string;
}

/** A pod is as ready after a cold start as after a restore: its node knows which it was. */
async function tellHow(turn: Turn, pod: ReadyPod): Promise<number | undefined> {
  const { deps, identity } = turn;
  const { facts, since, container } = pod;
  const { pod: name = '', podUid: uid = '', node = '' } = facts;
  const workflowId = objectWorkflowId('inspectRestore', identity.uid);
  const state = await deps.operations.look(workflowId);
  if (state.state === 'completed') {
    return writeHow(turn, pod, (state.result as InspectRestoreResult).outcome);
  }
  const isLate = deps.now().getTime() - since.getTime() > ANSWER_MS;
  if (state.state === 'failed' && isLate) {
    const message = `pod ${name} runs and is ready; whether it was restored nobody could say: ${state.message}`;
    return write(turn, { phase: 'Ready', ...facts }, { status: 'True', reason: 'OutcomeUnknown', message });
  }
  if (state.state !== 'running') {
    await deps.operations.startInspect(workflowId, { node, pod: { uid, container } });
    const message = `pod ${name} is ready; node ${node} is asked how it began`;
    await write(turn, { phase: 'Restoring', ...facts }, { status: 'False', reason: 'Restoring', message });
  }
  return ANSWER_LOOK_MS;
}

function writeHow(
  turn: Turn,
  { facts, container }: ReadyPod,
  outcome: InspectRestoreResult['outcome'],
): Promise<undefined> {
  const { pod: name = '', node } = facts;
  if (outcome === undefined) {
    // Its runtime is not ours: nobody has even tried.
    const message = `pod ${name} runs, but nothing was restored into ${container}: its runtime on ${node} was not asked to`;
    return write(turn, { phase: 'Failed', ...facts }, { status: 'False', reason: 'RestoreFailed', message });
  }
  const { how, reason = '' } = outcome;
  const condition =
    how === 'restored'
      ? { reason: 'Restored', message: `pod ${name} is ready, restored from ${outcome.restoreFrom}` }
      : { reason: 'ColdStarted', message: `pod ${name} is ready, but was started afresh: ${reason}` };
  return write(turn, { phase: 'Ready', ...facts, how }, { status: 'True', ...condition });
}

/** What the kubelet says of a pod that is not ready; `isLast`: another attempt would fare no better. */
function trouble(pod: Pod): { message: string; type?: ErrorType; isLast: boolean } {
  const waiting = pod.status?.containerStatuses?.map(({ state }) => state?.waiting).find((one) => one !== undefined);
  const unscheduled = pod.status?.conditions?.find(({ type, status }) => type === 'PodScheduled' && status === 'False');
  const message = waiting?.message ?? unscheduled?.message ?? waiting?.reason ?? `pod is ${pod.status?.phase}`;
  const type = /\b([A-Z][A-Za-z]+)\b/g;
  const named = [...message.matchAll(type)].map(([, word]) => word ?? '').find((word) => isErrorType(word));
  const isOver = pod.status?.phase === 'Failed' || pod.status?.phase === 'Succeeded';
  if (named !== undefined && isErrorType(named)) {
    return { message, type: named, isLast: isOver || !ERRORS[named].retryable };
  }
  return { message: pod.status?.message ?? message, isLast: isOver };
}

async function write(
  { deps, identity, status }: Turn,
  change: Partial<KubernetesRestoreStatus> & Pick<KubernetesRestoreStatus, 'phase'>,
  condition: Pick<Condition, 'status' | 'reason' | 'message'>,
): Promise<undefined> {
  await writeStatus({
    cluster: deps.cluster,
    ref: refOf('Restore', identity),
    identity,
    now: deps.now(),
    before: status,
    change,
    condition,
  });
}

/** The object is to go. A pod that it has made goes with it, unless the container that it is for runs by now. */
async function endRestore(deps: Deps, object: RestoreObject, identity: Identity): Promise<number | undefined> {
  if (!identity.finalizers.includes(FINALIZER)) {
    return undefined;
  }
  const pod = await ownPod(deps, object, identity);
  if (pod !== undefined && object.status?.phase !== 'Ready' && !runs(pod, object.status?.container)) {
    await deps.cluster.deletePod(pod);
  }
  await letGo(deps.cluster, refOf('Restore', identity), object);
  return undefined;
}

/** Known by its label: the operator may have died before it could note what it had made. */
async function ownPod(
  { cluster }: Deps,
  { spec, status }: RestoreObject,
  identity: Identity,
): Promise<Pod | undefined> {
  const { pod: wanted } = (spec ?? {}) as { readonly pod?: unknown };
  const name = status?.pod ?? (typeof wanted === 'string' ? wanted : identity.name);
  const pod = await cluster.pod(identity.namespace, name);
  return pod?.metadata?.labels?.[RESTORE_LABEL] === identity.uid ? pod : undefined;
}

/** @param container any of them, where it is not known which one was meant */
function runs({ status }: Pod, container: string | undefined): boolean {
  return (status?.containerStatuses ?? []).some(
    ({ name, state }) => state?.running !== undefined && (container === undefined || container === name),
  );
}

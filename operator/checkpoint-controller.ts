/*
 * One `Checkpoint` object is one workflow `checkpoint`, whose id is made of the object's uid: the operator may die
 * between any two calls, and its next turn finds the same workflow. The object is never started twice; one that failed
 * stays failed, and another attempt is another object.
 */
import type { CheckpointRequest } from '../core/contract/checkpoint.ts';
import {
  kubernetesCheckpointSpec,
  type Condition,
  type KubernetesCheckpointSpec,
  type KubernetesCheckpointStatus,
} from '../core/contract/kubernetes.ts';
import { parseInput } from '../core/contract/parse.ts';
import { assertNever, isKybernateError } from '../core/errors.ts';
import { objectWorkflowId } from '../core/ids.ts';
import type { Cluster } from './cluster.ts';
import { FINALIZER, identityOf, type CheckpointObject, type Identity } from './objects.ts';
import type { CheckpointState, Operations } from './operations.ts';
import type { Pod } from './plain.ts';
import { containerOfPod, livenessOf, templateOf } from './pods.ts';
import { isFinal, keep, letGo, refOf, writeStatus } from './turn.ts';

export interface ControllerDeps {
  readonly cluster: Cluster;
  readonly operations: Operations;
  readonly now: () => Date;
}

/** Between two looks at a workflow that runs. */
const LOOK_MS = 2_000;
/** Between two looks for a pod that is not there yet. */
const POD_LOOK_MS = 3_000;

/** One turn. @returns ms until the next one; undefined: not before the object changes */
export async function handleCheckpoint(deps: ControllerDeps, object: CheckpointObject): Promise<number | undefined> {
  const identity = identityOf(object);
  if (identity.isDeleted) {
    return endCheckpoint(deps, object, identity);
  }
  if (isFinal(object.status?.phase)) {
    return undefined;
  }
  await keep(deps.cluster, refOf('Checkpoint', identity), object);
  const turn: Turn = {
    deps,
    identity,
    status: object.status,
    workflowId: objectWorkflowId('checkpoint', identity.uid),
  };
  try {
    const spec = parseInput(kubernetesCheckpointSpec, object.spec);
    const state = await deps.operations.look(turn.workflowId);
    if (state.state !== 'unknown') {
      return await tell(turn, state);
    }
    return await (object.status?.workflowId === undefined ? begin(turn, spec) : forgotten(turn));
  } catch (error) {
    if (isKybernateError(error, 'InvalidInput')) {
      return write(turn, { phase: 'Failed' }, { status: 'False', reason: error.type, message: error.message });
    }
    throw error;
  }
}

interface Turn {
  readonly deps: ControllerDeps;
  readonly identity: Identity;
  readonly status: KubernetesCheckpointStatus | undefined;
  readonly workflowId: string;
}

/** It was started once, and a second checkpoint is not what was asked for: with `stop` it would end another container. */
function forgotten(turn: Turn): Promise<undefined> {
  const message =
    `Temporal knows no workflow ${turn.workflowId} any more, so nobody can say how it ended; \`kybernate ls\` shows ` +
    'whether there is a checkpoint';
  return write(turn, { phase: 'Failed' }, { status: 'False', reason: 'CheckpointNotFound', message });
}

/** Starts the workflow once the pod runs. */
async function begin(turn: Turn, spec: KubernetesCheckpointSpec): Promise<number | undefined> {
  const { deps, identity, workflowId } = turn;
  const pod = await deps.cluster.pod(identity.namespace, spec.pod);
  const name = pod === undefined ? spec.container : containerOfPod(pod, spec.container);
  const why = whyNotYet(pod, spec.pod, name);
  const node = pod?.spec?.nodeName;
  if (pod === undefined || name === undefined || node === undefined || why !== undefined) {
    const condition = { status: 'False', ...(why ?? { reason: 'ContainerNotRunning', message: '' }) } as const;
    const isLate = deps.now().getTime() - identity.createdAt.getTime() > spec.podWaitMs;
    await write(turn, { phase: isLate ? 'Failed' : 'Pending' }, condition);
    return isLate ? undefined : POD_LOOK_MS;
  }
  const checkpointId = spec.checkpointId ?? defaultCheckpointId(identity);
  await deps.operations.startCheckpoint(
    workflowId,
    requestOf(spec, { identity, pod, node, container: name, checkpointId }),
  );
  const started = {
    phase: 'Running',
    workflowId,
    checkpointId,
    node,
    container: name,
    startedAt: deps.now().toISOString(),
    podTemplate: templateOf(pod),
  } as const;
  await write(turn, started, { status: 'False', reason: 'Running', message: `workflow ${workflowId} has begun` });
  return LOOK_MS;
}

function whyNotYet(
  pod: Pod | undefined,
  podName: string,
  container: string | undefined,
): Pick<Condition, 'reason' | 'message'> | undefined {
  if (pod === undefined) {
    return { reason: 'ContainerNotFound', message: `there is no pod ${podName}; waiting for it` };
  }
  const status = pod.status?.containerStatuses?.find(({ name }) => name === container);
  if (status?.state?.running === undefined) {
    const message = `container ${container} of pod ${podName} does not run (${pod.status?.phase}); waiting for it`;
    return { reason: 'ContainerNotRunning', message };
  }
  return undefined;
}

function requestOf(
  spec: KubernetesCheckpointSpec,
  {
    identity,
    pod,
    node,
    container,
    checkpointId,
  }: {
    readonly identity: Identity;
    readonly pod: Pod;
    readonly node: string;
    readonly container: string;
    readonly checkpointId: string;
  },
): CheckpointRequest {
  const { after, durability, engine, tcp, freezeBudgetMs, holdBudgetMs, gpu, health, labels } = spec;
  const probe = livenessOf(pod, container);
  return {
    node,
    container: { pod: { namespace: identity.namespace, name: spec.pod, container } },
    checkpointId,
    after,
    durability,
    engine,
    tcp,
    ...(freezeBudgetMs === undefined ? {} : { freezeBudgetMs }),
    holdBudgetMs,
    ...(probe === undefined ? {} : { livenessProbe: probe }),
    gpu,
    ...(health === undefined ? {} : { health }),
    labels,
  };
}

/** Unique by the uid, telling by the names; the longest id has 96 characters. */
function defaultCheckpointId({ namespace, name, uid }: Identity): string {
  return `${`${namespace}-${name}`.slice(0, 87)}-${uid.slice(0, 8)}`;
}

/** Writes what the workflow has come to. */
async function tell(turn: Turn, state: Exclude<CheckpointState, { state: 'unknown' }>): Promise<number | undefined> {
  switch (state.state) {
    case 'running': {
      const message = state.step === undefined ? 'no control worker answers' : `the workflow is ${state.step}`;
      const step = state.step === undefined ? {} : { step: state.step };
      await write(turn, { phase: 'Running', ...step }, { status: 'False', reason: 'Running', message });
      return LOOK_MS;
    }
    case 'completed': {
      const { checkpointId, node, freezeMs, bytes, remote, gpuProcesses, warnings, source } = state.result;
      const facts = {
        checkpointId,
        node,
        freezeMs: Math.round(freezeMs * 10) / 10,
        totalBytes: bytes.total,
        storedBytes: bytes.stored,
        gpuProcesses,
        ...(remote === undefined ? {} : { remote }),
      };
      const message = [`${state.result.durability}; the source is ${source}`, ...warnings].join('; ');
      return write(turn, { phase: 'Ready', ...facts }, { status: 'True', reason: 'Ready', message });
    }
    case 'failed':
      return write(turn, { phase: 'Failed' }, { status: 'False', reason: state.type, message: state.message });
    case 'cancelled':
    case 'terminated': {
      const message = `the workflow was ${state.state}`;
      return write(turn, { phase: 'Cancelled' }, { status: 'False', reason: 'Cancelled', message });
    }
    default:
      return assertNever(state);
  }
}

async function write(
  { deps, identity, status, workflowId }: Turn,
  change: Partial<KubernetesCheckpointStatus> & Pick<KubernetesCheckpointStatus, 'phase'>,
  condition: Pick<Condition, 'status' | 'reason' | 'message'>,
): Promise<undefined> {
  const known = change.phase === 'Pending' ? {} : { workflowId };
  await writeStatus({
    cluster: deps.cluster,
    ref: refOf('Checkpoint', identity),
    identity,
    now: deps.now(),
    before: status,
    change: { ...known, ...change, ...(isFinal(change.phase) ? { step: null } : {}) },
    condition,
  });
}

/** The object is to go: what runs is cancelled and waited for. */
async function endCheckpoint(
  { cluster, operations }: ControllerDeps,
  object: CheckpointObject,
  identity: Identity,
): Promise<number | undefined> {
  if (!identity.finalizers.includes(FINALIZER)) {
    return undefined;
  }
  const workflowId = objectWorkflowId('checkpoint', identity.uid);
  const { state } = await operations.look(workflowId);
  if (state === 'running') {
    await operations.cancel(workflowId);
    return LOOK_MS;
  }
  await letGo(cluster, refOf('Checkpoint', identity), object);
  return undefined;
}

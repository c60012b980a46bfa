/*
 * One `Checkpoint` object is one workflow, `checkpoint` or `importCheckpoint`, whose id is made of the object's uid: the
 * operator may die between any two calls, and its next turn finds the same workflow. The object is never started twice; one
 * that failed stays failed, and another attempt is another object.
 */
import type { CheckpointRequest, CheckpointResult } from '../core/contract/checkpoint.ts';
import type { ImportCheckpointResult } from '../core/contract/import-checkpoint.ts';
import {
  kubernetesCheckpointSpec,
  type Condition,
  type KubernetesCheckpointSpec,
  type KubernetesCheckpointStatus,
} from '../core/contract/kubernetes.ts';
import { parseInput } from '../core/contract/parse.ts';
import { assertNever, isKybernateError } from '../core/errors.ts';
import { endCheckpoint } from './checkpoint-end.ts';
import {
  checkpointWorkflowOf,
  defaultCheckpointId,
  identityOf,
  type CheckpointObject,
  type Identity,
} from './objects.ts';
import type { OperationState } from './operations.ts';
import type { Pod } from './plain.ts';
import { containerOfPod, livenessOf, templateOf } from './pods.ts';
import { isFinal, keep, refOf, writeStatus, type ControllerDeps } from './turn.ts';

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
  const turn: Turn = { deps, identity, status: object.status, workflowId: checkpointWorkflowOf(object) };
  try {
    const spec = parseInput(kubernetesCheckpointSpec, object.spec);
    const state = await deps.operations.look(turn.workflowId);
    if (state.state !== 'unknown') {
      return await tell(turn, spec, state);
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

/** Starts the workflow, for a pod once it runs. */
async function begin(turn: Turn, spec: KubernetesCheckpointSpec): Promise<number | undefined> {
  const { source, pod } = spec;
  if (source !== undefined) {
    return beginImport(turn, spec, source);
  }
  return pod === undefined ? undefined : beginCheckpoint(turn, spec, pod);
}

async function beginImport(
  turn: Turn,
  spec: KubernetesCheckpointSpec,
  { node, archive }: NonNullable<KubernetesCheckpointSpec['source']>,
): Promise<number> {
  const { deps, identity, workflowId } = turn;
  const { durability, labels } = spec;
  const checkpointId = spec.checkpointId ?? defaultCheckpointId(identity);
  const podNamespace = identity.namespace;
  await deps.operations.startImport(workflowId, { node, archive, checkpointId, podNamespace, durability, labels });
  await writeBegun(turn, { checkpointId, node });
  return LOOK_MS;
}

async function beginCheckpoint(
  turn: Turn,
  spec: KubernetesCheckpointSpec,
  podName: string,
): Promise<number | undefined> {
  const { deps, identity, workflowId } = turn;
  const pod = await deps.cluster.pod(identity.namespace, podName);
  const container = pod === undefined ? spec.container : containerOfPod(pod, spec.container);
  const why = whyNotYet(pod, podName, container);
  const node = pod?.spec?.nodeName;
  if (pod === undefined || container === undefined || node === undefined || why !== undefined) {
    const condition = { status: 'False', ...(why ?? { reason: 'ContainerNotRunning', message: '' }) } as const;
    const isLate = deps.now().getTime() - identity.createdAt.getTime() > spec.podWaitMs;
    await write(turn, { phase: isLate ? 'Failed' : 'Pending' }, condition);
    return isLate ? undefined : POD_LOOK_MS;
  }
  const checkpointId = spec.checkpointId ?? defaultCheckpointId(identity);
  const target = { namespace: identity.namespace, name: podName, container };
  await deps.operations.startCheckpoint(workflowId, requestOf(spec, { target, pod, node, checkpointId }));
  await writeBegun(turn, { checkpointId, node, container, podTemplate: templateOf(pod) });
  return LOOK_MS;
}

function writeBegun(turn: Turn, facts: Partial<KubernetesCheckpointStatus>): Promise<undefined> {
  const { deps, workflowId } = turn;
  const started = { phase: 'Running', workflowId, startedAt: deps.now().toISOString(), ...facts } as const;
  return write(turn, started, { status: 'False', reason: 'Running', message: `workflow ${workflowId} has begun` });
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
    target,
    pod,
    node,
    checkpointId,
  }: {
    readonly target: { readonly namespace: string; readonly name: string; readonly container: string };
    readonly pod: Pod;
    readonly node: string;
    readonly checkpointId: string;
  },
): CheckpointRequest {
  const { after, durability, engine, tcp, freezeBudgetMs, holdBudgetMs, captureVolumes, gpu, health, labels } = spec;
  const probe = livenessOf(pod, target.container);
  return {
    node,
    container: { pod: target },
    checkpointId,
    after,
    durability,
    engine,
    tcp,
    ...(freezeBudgetMs === undefined ? {} : { freezeBudgetMs }),
    holdBudgetMs,
    ...(probe === undefined ? {} : { livenessProbe: probe }),
    ...(captureVolumes === undefined ? {} : { captureVolumes }),
    gpu,
    ...(health === undefined ? {} : { health }),
    labels,
  };
}

/** Writes what the workflow has come to. */
async function tell(
  turn: Turn,
  spec: KubernetesCheckpointSpec,
  state: Exclude<OperationState, { state: 'unknown' }>,
): Promise<number | undefined> {
  switch (state.state) {
    case 'running': {
      const message = state.step === undefined ? 'no control worker answers' : `the workflow is ${state.step}`;
      const step = state.step === undefined ? {} : { step: state.step };
      await write(turn, { phase: 'Running', ...step }, { status: 'False', reason: 'Running', message });
      return LOOK_MS;
    }
    case 'completed': {
      const { facts, message } =
        spec.source === undefined
          ? capturedFacts(state.result as CheckpointResult)
          : importedFacts(state.result as ImportCheckpointResult);
      return write(turn, { phase: 'Ready', ...facts }, { status: 'True', reason: 'Ready', message });
    }
    case 'failed': {
      const condition = { status: 'False', reason: state.type, message: state.message } as const;
      return write(turn, { phase: 'Failed', ...ownedOf(spec, state.committed) }, condition);
    }
    case 'cancelled':
    case 'terminated': {
      const message = `the workflow was ${state.state}`;
      const condition = { status: 'False', reason: 'Cancelled', message } as const;
      return write(turn, { phase: 'Cancelled', ...ownedOf(spec, state.committed) }, condition);
    }
    default:
      return assertNever(state);
  }
}

interface Facts {
  readonly facts: Partial<KubernetesCheckpointStatus>;
  readonly message: string;
}

function capturedFacts(result: CheckpointResult): Facts {
  const { checkpointId, node, freezeMs, bytes, remote, gpuProcesses, warnings, source, durability } = result;
  return {
    facts: {
      checkpointId,
      node,
      freezeMs: Math.round(freezeMs * 10) / 10,
      totalBytes: bytes.total,
      storedBytes: bytes.stored,
      gpuProcesses,
      owned: true,
      ...(remote === undefined ? {} : { remote }),
    },
    message: [`${durability}; the source is ${source}`, ...warnings].join('; '),
  };
}

function importedFacts(result: ImportCheckpointResult): Facts {
  const { checkpointId, node, pod, totalBytes, storedBytes, remote, created, warnings, durability } = result;
  return {
    facts: {
      checkpointId,
      node,
      totalBytes,
      storedBytes,
      owned: created,
      ...(pod === undefined ? {} : { container: pod.container }),
      ...(remote === undefined ? {} : { remote }),
    },
    message: [`${durability}; ${created ? 'imported' : 'it was there already'}`, ...warnings].join('; '),
  };
}

/** An import that failed does not say whether it has made what is there: an id made of our uid does. */
function ownedOf(
  { source, checkpointId }: KubernetesCheckpointSpec,
  committed: boolean | undefined,
): { readonly owned?: true } {
  return committed === true && (source === undefined || checkpointId === undefined) ? { owned: true } : {};
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

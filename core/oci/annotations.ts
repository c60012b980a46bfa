/*
 * Every `kybernate.io/*` key, and how a container's specification asks for a restore. containerd, kubelet and users
 * write them; the wrapper and the engine read them here alone.
 */
import { KybernateError } from '../errors.ts';
import type { OciSpec } from './spec.ts';

export const ANNOTATIONS = {
  /** checkpoint id, or an absolute path below a restore root of the node; `.<container name>` picks one of a pod */
  restoreFrom: 'kybernate.io/restore-from',
  /** operation that made this container; set by the node worker */
  operation: 'kybernate.io/operation',
  /** of a container in a pod: `first-start` (default), so that a restart after a crash does not rewind it, or `every-start` */
  restore: 'kybernate.io/restore',
  /** `fail` (default), `cold-start`, or `wait` (until the node can; what cannot change fails): when it cannot be restored */
  onFailure: 'kybernate.io/on-failure',
  /** from the first attempt on, how long the checkpoint may take to come: `10m`; then `wait` fails and `cold-start` starts */
  restoreTimeout: 'kybernate.io/restore-timeout',
  /** `keep` or `close` (default): what becomes of TCP connections that were open at the dump */
  tcp: 'kybernate.io/tcp',
  /** `true` allows a bare image directory, of which nothing can be checked */
  unverified: 'kybernate.io/unverified',
  /** volumes of the pod whose content a checkpoint takes along: names of emptyDirs, and `/dev/shm` (default), by commas; `-` for none */
  captureVolumes: 'kybernate.io/capture-volumes',
  /** GPUs for a container that has none yet: `all`, or indices and UUIDs by commas; `.<container name>` as above */
  gpus: 'kybernate.io/gpus',
  /** `true`: no CUDA IPC, peer access or NCCL over P2P is used where that cannot be seen; `.<container name>` as above */
  gpuAssumeSafe: 'kybernate.io/gpu-assume-safe',
  /** JSON array of a program of the container and its arguments, run before the GPU is locked */
  gpuQuiesce: 'kybernate.io/gpu-quiesce',
  /** the same, run after the GPU is unlocked */
  gpuResume: 'kybernate.io/gpu-resume',
} as const;

/** Labels of restored containers and of their snapshots in containerd. */
export const LABELS = {
  operation: 'kybernate.io/operation',
  restoredFrom: 'kybernate.io/restored-from',
} as const;

/**
 * What the container runtime says of a container's place in a pod, by the keys of containerd and, after them, of CRI-O.
 * Source: containerd, internal/cri/annotations; cri-o, pkg/annotations, and kubelet's labels, which it copies.
 */
export const CRI_ANNOTATIONS = {
  containerType: ['io.kubernetes.cri.container-type', 'io.kubernetes.cri-o.ContainerType'],
  containerName: ['io.kubernetes.cri.container-name', 'io.kubernetes.container.name'],
  podNamespace: ['io.kubernetes.cri.sandbox-namespace', 'io.kubernetes.pod.namespace'],
  podName: ['io.kubernetes.cri.sandbox-name', 'io.kubernetes.pod.name'],
  podUid: ['io.kubernetes.cri.sandbox-uid', 'io.kubernetes.pod.uid'],
  sandboxId: ['io.kubernetes.cri.sandbox-id', 'io.kubernetes.cri-o.SandboxID'],
} as const;

/** A container's place in a pod; undefined for one that no CRI runtime made. */
export function criAnnotation(
  { annotations = {} }: Pick<OciSpec, 'annotations'>,
  name: keyof typeof CRI_ANNOTATIONS,
): string | undefined {
  return CRI_ANNOTATIONS[name].map((key) => nonEmpty(annotations[key])).find((value) => value !== undefined);
}

export function isInPod(spec: Pick<OciSpec, 'annotations'>): boolean {
  return criAnnotation(spec, 'podName') !== undefined;
}

/** Also of one that a pod's annotations have reached: the sandbox is never ours to restore, nor to give a GPU. */
export function isSandbox(spec: Pick<OciSpec, 'annotations'>): boolean {
  return criAnnotation(spec, 'containerType') === 'sandbox';
}

/** Value of one of our keys; `<key>.<container name>` counts more than the key, which is the whole pod's. */
export function ownAnnotation(spec: Pick<OciSpec, 'annotations'>, key: string): string | undefined {
  return namedAnnotation(spec, key) ?? nonEmpty(spec.annotations?.[key]);
}

function namedAnnotation(spec: Pick<OciSpec, 'annotations'>, key: string): string | undefined {
  const name = criAnnotation(spec, 'containerName');
  return name === undefined ? undefined : nonEmpty(spec.annotations?.[`${key}.${name}`]);
}

/** Variable of a container's environment that asks for a restore; ids only, and only where the node allows it. */
export const RESTORE_FROM_VARIABLE = 'RESTORE_FROM';

export interface RestoreWish {
  readonly restoreFrom: string;
  readonly origin: 'annotation' | 'environment';
  readonly operationId?: string;
  readonly onFailure: 'fail' | 'cold-start' | 'wait';
  readonly tcp: 'keep' | 'close';
  readonly unverified: boolean;
  /** of a pod's container, at every start of it, not at its first one alone */
  readonly everyStart?: true;
  /** from the first attempt on */
  readonly timeoutMs?: number;
  readonly pod?: PodOfWish;
}

export interface PodOfWish {
  readonly namespace: string;
  readonly name: string;
  readonly uid?: string;
  readonly container?: string;
  /** the wish is this container's, not the whole pod's */
  readonly named: boolean;
}

/**
 * What the specification asks for; undefined when it asks for no restore, and always for the sandbox of a pod: pod
 * annotations reach it too, and a restored pause container would take the whole pod with it.
 * @throws InvalidInput a key has a value that it cannot have
 */
export function restoreWish(spec: OciSpec): RestoreWish | undefined {
  if (isSandbox(spec)) {
    return undefined;
  }
  const annotated = ownAnnotation(spec, ANNOTATIONS.restoreFrom);
  const restoreFrom = annotated ?? restoreFromVariable(spec);
  if (restoreFrom === undefined) {
    return undefined;
  }
  const operationId = nonEmpty(spec.annotations?.[ANNOTATIONS.operation]);
  const timeoutMs = durationOf(spec, ANNOTATIONS.restoreTimeout);
  const pod = podOf(spec);
  return {
    restoreFrom,
    origin: annotated === undefined ? 'environment' : 'annotation',
    ...(operationId === undefined ? {} : { operationId }),
    onFailure: oneOf(spec, ANNOTATIONS.onFailure, ['fail', 'cold-start', 'wait']),
    tcp: oneOf(spec, ANNOTATIONS.tcp, ['close', 'keep']),
    unverified: oneOf(spec, ANNOTATIONS.unverified, ['false', 'true']) === 'true',
    ...(oneOf(spec, ANNOTATIONS.restore, ['first-start', 'every-start']) === 'every-start' ? { everyStart: true } : {}),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...(pod === undefined ? {} : { pod }),
  };
}

/** Value of RESTORE_FROM; the last one wins, as it would for the process. */
function restoreFromVariable(spec: OciSpec): string | undefined {
  const prefix = `${RESTORE_FROM_VARIABLE}=`;
  const found = (spec.process?.env ?? []).findLast((entry) => entry.startsWith(prefix));
  return nonEmpty(found?.slice(prefix.length));
}

function podOf(spec: OciSpec): PodOfWish | undefined {
  const namespace = criAnnotation(spec, 'podNamespace');
  const name = criAnnotation(spec, 'podName');
  if (namespace === undefined || name === undefined) {
    return undefined;
  }
  const uid = criAnnotation(spec, 'podUid');
  const container = criAnnotation(spec, 'containerName');
  return {
    namespace,
    name,
    ...(uid === undefined ? {} : { uid }),
    ...(container === undefined ? {} : { container }),
    named: namedAnnotation(spec, ANNOTATIONS.restoreFrom) !== undefined,
  };
}

const UNIT_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000 };

function durationOf(spec: OciSpec, key: string): number | undefined {
  const text = ownAnnotation(spec, key);
  const [, number, unit] = /^(\d{1,6})([smh])$/.exec(text ?? '') ?? [];
  if (text !== undefined && number === undefined) {
    throw new KybernateError(
      'InvalidInput',
      `annotation ${key}: ${JSON.stringify(text)} is no time such as 90s or 10m`,
    );
  }
  return number === undefined ? undefined : Number(number) * (UNIT_MS[unit ?? ''] ?? 1000);
}

/** The first value is the default. */
function oneOf<Value extends string>(spec: OciSpec, key: string, values: readonly [Value, ...Value[]]): Value {
  const text = ownAnnotation(spec, key);
  if (text === undefined) {
    return values[0];
  }
  const found = values.find((value) => value === text);
  if (found === undefined) {
    throw new KybernateError(
      'InvalidInput',
      `annotation ${key}: ${JSON.stringify(text)} is none of ${values.join(', ')}`,
    );
  }
  return found;
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text === '' ? undefined : text;
}

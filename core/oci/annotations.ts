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
  /** `fail` (default) or `cold-start`: what to do when the restore cannot be done */
  onFailure: 'kybernate.io/on-failure',
  /** `keep` or `close` (default): what becomes of TCP connections that were open at the dump */
  tcp: 'kybernate.io/tcp',
  /** `true` allows a bare image directory, of which nothing can be checked */
  unverified: 'kybernate.io/unverified',
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

/** Written by containerd's CRI plug-in. Source: containerd, pkg/cri annotations. */
export const CRI_ANNOTATIONS = {
  containerType: 'io.kubernetes.cri.container-type',
  containerName: 'io.kubernetes.cri.container-name',
  podNamespace: 'io.kubernetes.cri.sandbox-namespace',
  podName: 'io.kubernetes.cri.sandbox-name',
  podUid: 'io.kubernetes.cri.sandbox-uid',
} as const;

/** Variable of a container's environment that asks for a restore; ids only, and only where the node allows it. */
export const RESTORE_FROM_VARIABLE = 'RESTORE_FROM';

export interface RestoreWish {
  readonly restoreFrom: string;
  readonly origin: 'annotation' | 'environment';
  readonly operationId?: string;
  readonly onFailure: 'fail' | 'cold-start';
  readonly tcp: 'keep' | 'close';
  readonly unverified: boolean;
  readonly pod?: { readonly namespace: string; readonly name: string; readonly uid?: string };
}

/**
 * What the specification asks for; undefined when it asks for no restore, and always for the sandbox of a pod: pod
 * annotations reach it too, and a restored pause container would take the whole pod with it.
 * @throws InvalidInput a key has a value that it cannot have
 */
export function restoreWish(spec: OciSpec): RestoreWish | undefined {
  const annotations = spec.annotations ?? {};
  if (annotations[CRI_ANNOTATIONS.containerType] === 'sandbox') {
    return undefined;
  }
  const name = annotations[CRI_ANNOTATIONS.containerName];
  const named = name === undefined ? undefined : annotations[`${ANNOTATIONS.restoreFrom}.${name}`];
  const annotated = nonEmpty(named) ?? nonEmpty(annotations[ANNOTATIONS.restoreFrom]);
  const restoreFrom = annotated ?? restoreFromVariable(spec);
  if (restoreFrom === undefined) {
    return undefined;
  }
  const operationId = nonEmpty(annotations[ANNOTATIONS.operation]);
  const pod = podOf(annotations);
  return {
    restoreFrom,
    origin: annotated === undefined ? 'environment' : 'annotation',
    ...(operationId === undefined ? {} : { operationId }),
    onFailure: oneOf(annotations, ANNOTATIONS.onFailure, ['fail', 'cold-start']),
    tcp: oneOf(annotations, ANNOTATIONS.tcp, ['close', 'keep']),
    unverified: oneOf(annotations, ANNOTATIONS.unverified, ['false', 'true']) === 'true',
    ...(pod === undefined ? {} : { pod }),
  };
}

/** Value of RESTORE_FROM; the last one wins, as it would for the process. */
function restoreFromVariable(spec: OciSpec): string | undefined {
  const prefix = `${RESTORE_FROM_VARIABLE}=`;
  const found = (spec.process?.env ?? []).findLast((entry) => entry.startsWith(prefix));
  return nonEmpty(found?.slice(prefix.length));
}

function podOf(annotations: Readonly<Record<string, string>>): RestoreWish['pod'] {
  const namespace = annotations[CRI_ANNOTATIONS.podNamespace];
  const name = annotations[CRI_ANNOTATIONS.podName];
  if (namespace === undefined || name === undefined) {
    return undefined;
  }
  const uid = annotations[CRI_ANNOTATIONS.podUid];
  return { namespace, name, ...(uid === undefined ? {} : { uid }) };
}

/** The first value is the default. */
function oneOf<Value extends string>(
  annotations: Readonly<Record<string, string>>,
  key: string,
  values: readonly [Value, ...Value[]],
): Value {
  const text = annotations[key];
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

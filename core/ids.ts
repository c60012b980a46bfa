/*
 * Identities. What people type never becomes a path unchecked: a string becomes one of these types only through its
 * parser, and every parser refuses what could leave a directory.
 */
import { KybernateError } from './errors.ts';

type Brand<Name extends string> = string & { readonly __brand: Name };

export type CheckpointId = Brand<'CheckpointId'>;
export type ContainerId = Brand<'ContainerId'>;
export type NodeName = Brand<'NodeName'>;
export type OperationId = Brand<'OperationId'>;

/** Lower case, digits, `.`, `_`, `-`; starts with a letter or digit; at most 96 characters: safe as a file name. */
export const CHECKPOINT_ID_PATTERN = /^[a-z0-9][a-z0-9._-]{0,95}$/;
/** containerd's own rule for ids (identifiers.Validate), at most 76 characters. */
export const CONTAINER_ID_PATTERN = /^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/;
/** Docker's own rule for names (moby, daemon/names), which ids match too; that of a compose project may be long. */
export const DOCKER_NAME_PATTERN = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}$/;
/** A DNS subdomain: Kubernetes' rule for node names. */
export const NODE_NAME_PATTERN = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/;
export const NAMESPACE_PATTERN = CONTAINER_ID_PATTERN;
/** containerd namespace of Docker's containers. Source: moby, daemon/config, DefaultContainersNamespace. */
export const DOCKER_NAMESPACE = 'moby';
/** Of both what becomes part of a file's name. Source: Kubernetes, names of containers are DNS labels, uids are UUIDs. */
export const POD_UID_PATTERN = /^[A-Za-z0-9-]{1,64}$/;
export const POD_CONTAINER_PATTERN = /^[a-z0-9-]{1,63}$/;
export const OPERATION_ID_PATTERN = /^[0-9a-f]{32}$/;

function parser(what: string, pattern: RegExp): (text: string) => never {
  return (text) => {
    if (!pattern.test(text) || text.includes('..')) {
      throw new KybernateError('InvalidInput', `${what}: ${JSON.stringify(text)} does not match ${String(pattern)}`);
    }
    // Every branded string is a string; `never` lets each parser below name its own brand.
    return text as never;
  };
}

export const parseCheckpointId: (text: string) => CheckpointId = parser('checkpointId', CHECKPOINT_ID_PATTERN);
export const parseContainerId: (text: string) => ContainerId = parser('container.id', CONTAINER_ID_PATTERN);
export const parseNodeName: (text: string) => NodeName = parser('node', NODE_NAME_PATTERN);
export const parseOperationId: (text: string) => OperationId = parser('operationId', OPERATION_ID_PATTERN);

/**
 * @param startedAt ISO time of the workflow's start, so that ids sort by time
 * @param random at least eight hexadecimal digits (uuid4 in a workflow)
 */
export function newCheckpointId(startedAt: string, random: string): CheckpointId {
  const time = startedAt.replaceAll(/[^0-9]/g, '').slice(0, 14);
  return parseCheckpointId(`ck-${time}-${random.replaceAll('-', '').slice(0, 8)}`);
}

/** For an operation that never becomes a checkpoint; its name says so to whoever finds its directory. */
export function newRehearsalId(startedAt: string, random: string): CheckpointId {
  return parseCheckpointId(newCheckpointId(startedAt, random).replace(/^ck-/, 'rehearsal-'));
}

/** One container on one node; the key of its lock, of its flock file and of its reservations. */
export interface ContainerRef {
  readonly node: string;
  /** containerd namespace, `k8s.io` for Kubernetes */
  readonly namespace: string;
  readonly id: string;
}

export function containerKey(ref: ContainerRef): string {
  return `${ref.node}/${ref.namespace}/${ref.id}`;
}

export function lockWorkflowId(ref: ContainerRef): string {
  return `lock:${containerKey(ref)}`;
}

export function checkpointWorkflowId(target: string, generation: string): string {
  return `checkpoint:${target}:${generation}`;
}

export function rehearseWorkflowId(target: string, generation: string): string {
  return `rehearse:${target}:${generation}`;
}

export function verifyWorkflowId(target: string, generation: string): string {
  return `verifyCheckpoint:${target}:${generation}`;
}

export function repairWorkflowId(target: string, generation: string): string {
  return `repairCheckpoint:${target}:${generation}`;
}

export function listCopiesWorkflowId(node: string, generation: string): string {
  return `listCopies:${node}:${generation}`;
}

export function deleteCheckpointWorkflowId(checkpointId: string, generation: string): string {
  return `deleteCheckpoint:${checkpointId}:${generation}`;
}

export function importCheckpointWorkflowId(target: string, generation: string): string {
  return `importCheckpoint:${target}:${generation}`;
}

export function inspectRestoreWorkflowId(target: string, generation: string): string {
  return `inspectRestore:${target}:${generation}`;
}

export function preflightWorkflowId(target: string, generation: string): string {
  return `preflight:${target}:${generation}`;
}

export function prefetchWorkflowId(target: string, generation: string): string {
  return `prefetch:${target}:${generation}`;
}

export function collectGarbageWorkflowId(generation: string): string {
  return `collectGarbage:${generation}`;
}

export function restoreWorkflowId(target: string, generation: string): string {
  return `restore:${target}:${generation}`;
}

/** Of a Kubernetes object: one workflow of each kind for its whole life, whatever becomes of the operator. */
export function objectWorkflowId(
  verb: 'checkpoint' | 'importCheckpoint' | 'deleteCheckpoint' | 'inspectRestore',
  uid: string,
): string {
  return `${verb}:kubernetes:${uid}`;
}

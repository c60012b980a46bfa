/* The two kinds of objects as the operator handles them. Absent fields of `spec` are filled in by their schema. */
import type { Condition, KubernetesCheckpointStatus, KubernetesRestoreStatus } from '../core/contract/kubernetes.ts';
import { objectWorkflowId } from '../core/ids.ts';
import type { ObjectMeta } from './plain.ts';

export type Kind = 'Checkpoint' | 'Restore';
export const PLURALS: Readonly<Record<Kind, string>> = { Checkpoint: 'checkpoints', Restore: 'restores' };

/** Keeps an object until what it has under way is over. */
export const FINALIZER = 'kybernate.io/operation';

export interface Stored<Status> {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
  /** checked by the apiserver against the CRD, and by us */
  readonly spec?: unknown;
  readonly status?: Status;
}
export type CheckpointObject = Stored<KubernetesCheckpointStatus>;
export type RestoreObject = Stored<KubernetesRestoreStatus>;

/** What every stored object has. */
export interface Identity {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly generation: number;
  readonly createdAt: Date;
  readonly isDeleted: boolean;
  /** when somebody asked for its deletion */
  readonly deletedAt?: Date;
  readonly finalizers: readonly string[];
}

export function identityOf({ metadata }: { readonly metadata?: ObjectMeta }): Identity {
  return {
    namespace: metadata?.namespace ?? '',
    name: metadata?.name ?? '',
    uid: metadata?.uid ?? '',
    generation: metadata?.generation ?? 0,
    createdAt: new Date(metadata?.creationTimestamp ?? 0),
    isDeleted: metadata?.deletionTimestamp !== undefined,
    ...(metadata?.deletionTimestamp === undefined ? {} : { deletedAt: new Date(metadata.deletionTimestamp) }),
    finalizers: metadata?.finalizers ?? [],
  };
}

/** The workflow that makes its checkpoint, of a pod or of an archive. */
export function checkpointWorkflowOf({ metadata, spec }: CheckpointObject): string {
  const isImport = (spec as { readonly source?: unknown } | undefined)?.source !== undefined;
  return objectWorkflowId(isImport ? 'importCheckpoint' : 'checkpoint', metadata?.uid ?? '');
}

/** Unique by the uid, telling by the names; the longest id has 96 characters. */
export function defaultCheckpointId({ namespace, name, uid }: Identity): string {
  return `${`${namespace}-${name}`.slice(0, 87)}-${uid.slice(0, 8)}`;
}

/**
 * The one condition of both kinds. Its time changes with its status only.
 * @param now RFC 3339
 */
export function readyCondition(
  previous: readonly Condition[] | undefined,
  next: Pick<Condition, 'status' | 'reason' | 'message'>,
  { generation, now }: { readonly generation: number; readonly now: string },
): Condition[] {
  // Another version may have written them, and what is there must not keep the truth from being told.
  const known: ReadonlyArray<Condition | null> = Array.isArray(previous) ? previous : [];
  const last = known.find((one) => one?.type === 'Ready');
  const since = last?.status === next.status ? last.lastTransitionTime : now;
  const message = next.message.slice(0, 4096).toWellFormed();
  return [{ type: 'Ready', ...next, message, lastTransitionTime: since, observedGeneration: generation }];
}

/* The two kinds of objects as the operator handles them. Absent fields of `spec` are filled in by their schema. */
import type { Condition, KubernetesCheckpointStatus, KubernetesRestoreStatus } from '../core/contract/kubernetes.ts';

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
    finalizers: metadata?.finalizers ?? [],
  };
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

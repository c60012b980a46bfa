/* What every turn of both controllers does with its object: keep it, tell of it, let it go. */
import { isDeepStrictEqual } from 'node:util';
import type { Condition } from '../core/contract/kubernetes.ts';
import type { Cluster, ObjectRef } from './cluster.ts';
import { FINALIZER, readyCondition, type Identity, type Kind, type Stored } from './objects.ts';
import type { Operations } from './operations.ts';

export interface ControllerDeps {
  readonly cluster: Cluster;
  readonly operations: Operations;
  readonly now: () => Date;
}

const FINAL: ReadonlySet<string> = new Set(['Ready', 'Failed', 'Cancelled']);

/** Is everything done and told? */
export function isFinal(phase: string | undefined): boolean {
  return phase !== undefined && FINAL.has(phase);
}

export function refOf(kind: Kind, { namespace, name }: Identity): ObjectRef {
  return { kind, namespace, name };
}

/** The object stays until `letGo`. Idempotent. */
export async function keep(cluster: Cluster, ref: ObjectRef, object: Stored<unknown>): Promise<void> {
  const finalizers = object.metadata?.finalizers ?? [];
  if (!finalizers.includes(FINALIZER)) {
    await cluster.setFinalizers(ref, [...finalizers, FINALIZER], object.metadata?.resourceVersion);
  }
}

export async function letGo(cluster: Cluster, ref: ObjectRef, object: Stored<unknown>): Promise<void> {
  const left = (object.metadata?.finalizers ?? []).filter((name) => name !== FINALIZER);
  await cluster.setFinalizers(ref, left, object.metadata?.resourceVersion);
}

export interface StatusWrite {
  readonly cluster: Cluster;
  readonly ref: ObjectRef;
  readonly identity: Identity;
  readonly now: Date;
  readonly before: { readonly conditions?: readonly Condition[] | undefined } | undefined;
  /** fields that are null are taken away */
  readonly change: { readonly phase: string };
  readonly condition: Pick<Condition, 'status' | 'reason' | 'message'>;
}

/** Every write wakes every watcher, so what is there already is not written again. */
export async function writeStatus(write: StatusWrite): Promise<void> {
  const { cluster, ref, identity, before, change, condition } = write;
  const now = write.now.toISOString();
  const conditions = readyCondition(before?.conditions, condition, { generation: identity.generation, now });
  const next = { ...change, conditions, ...(isFinal(change.phase) ? { completedAt: now } : {}) };
  const known = new Map<string, unknown>(Object.entries(before ?? {}));
  // The API server gives keys back in an order of its own, and nothing for null.
  if (!Object.entries(next).every(([name, value]) => isDeepStrictEqual(known.get(name) ?? null, value))) {
    await cluster.patchStatus(ref, next);
  }
}

/*
 * Who reads or writes in a store: one half of the protocol that lets writers, readers and deleters share it without any
 * other lock; condemned.ts is the other half. The store is consistent (a write is seen by every later read), so:
 *
 *   writers, readers   write the lease, then read condemned/, indexes or manifests
 *   deleters           write condemned/, then read leases/; while a lease lives that could use a pack, they leave it
 *
 * Of two that meet, at least one sees the other. What this asks of time: a writer renews its lease before it looks
 * whether all that it relies on is there and not condemned, and its manifest follows within half of `LEASE_MS`; a
 * deleter lets go of its list before somebody else may take it away. Clocks may differ by `CLOCK_SKEW_MS`.
 */
import { randomBytes } from 'node:crypto';
import * as z from 'zod';
import { messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend, ObjectInfo } from './backend/backend.ts';
import { leaseKey, PREFIX } from './keys.ts';

/** A dead holder keeps packs from being deleted for at most this long. */
export const LEASE_MS = 3_600_000;
/** Clocks of nodes may differ by this much. */
export const CLOCK_SKEW_MS = 300_000;

const leaseContent = z.object({
  purpose: z.enum(['upload', 'read']),
  checkpointId: z.string(),
  /** ISO time of the first attempt; '' where it is not known, which counts as for ever */
  since: z.string().default(''),
  /** ISO time */
  expiresAt: z.string(),
});

export interface LeaseInfo extends z.output<typeof leaseContent> {
  readonly id: string;
}

export interface Lease {
  /** Makes it last for `LEASE_MS` from now. @throws StorageUnavailable, StorageDenied */
  renew(): Promise<void>;
  /** Stops renewing and leaves the lease to expire: for what goes on in a later step. */
  stop(): void;
  /** Removes the lease. A store that fails now is only logged: the lease then expires. */
  release(): Promise<void>;
}

/**
 * Writes the lease and renews it until `stop` or `release`. One of the same id that has not run out is continued.
 * Crash: it expires after `LEASE_MS`.
 */
export async function acquireLease(
  backend: Backend,
  lease: { readonly id: string; readonly purpose: 'upload' | 'read'; readonly checkpointId: string },
  op: Op,
): Promise<Lease> {
  const { id, purpose, checkpointId } = lease;
  const since = (await continued(backend, lease, op.signal)) ?? new Date().toISOString();
  const renew = (): Promise<void> => {
    const content = { purpose, checkpointId, since, expiresAt: new Date(Date.now() + LEASE_MS).toISOString() };
    return backend.put(leaseKey(id), Buffer.from(JSON.stringify(content)), { signal: op.signal });
  };
  await renew();
  const timer = setInterval(() => {
    renew().catch((error: unknown) => op.log.warn({ lease: id, reason: messageOf(error) }, 'lease not renewed'));
  }, LEASE_MS / 6).unref();
  return {
    renew,
    stop: () => clearInterval(timer),
    release: async () => {
      clearInterval(timer);
      await removeLease(backend, id, op);
    },
  };
}

/** Since when an upload's lease is held that this attempt takes over: the packs of earlier ones are its own. */
async function continued(
  backend: Backend,
  { id, purpose }: Pick<LeaseInfo, 'id' | 'purpose'>,
  signal: AbortSignal,
): Promise<string | undefined> {
  const bytes = purpose === 'upload' ? await backend.get(leaseKey(id), { signal }) : undefined;
  const content = leaseContent.safeParse(readJson(bytes));
  return content.success && !isOver(content.data.expiresAt) ? content.data.since : undefined;
}

export async function removeLease(backend: Backend, id: string, op: Op): Promise<void> {
  try {
    await backend.delete(leaseKey(id));
  } catch (error) {
    // Whatever the store answers, the lease ends by itself; the work that it covered is done or failed already.
    op.log.warn({ lease: id, reason: messageOf(error) }, 'lease not removed');
  }
}

/** The lease of a checkpoint's upload: one, so that a new attempt takes the old one over. */
export function uploadLeaseId(checkpointId: string): string {
  return `upload-${checkpointId}`;
}

/** A lease of its own for every reader. */
export function newReadLeaseId(checkpointId: string): string {
  return `read-${checkpointId}-${randomBytes(6).toString('hex')}`;
}

/** The leases of a store by whether they may still be held; the objects of those that are over. */
export interface Leases {
  readonly live: readonly LeaseInfo[];
  readonly over: readonly ObjectInfo[];
}

export async function readLeases(backend: Backend, signal: AbortSignal): Promise<Leases> {
  const live: LeaseInfo[] = [];
  const over: ObjectInfo[] = [];
  for await (const object of backend.list(PREFIX.leases, { signal })) {
    const lease = await readLease(backend, object, signal);
    if (lease === 'over') {
      over.push(object);
    } else if (lease !== undefined) {
      live.push(lease);
    }
  }
  return { live, over };
}

export async function liveLeases(backend: Backend, signal: AbortSignal): Promise<readonly LeaseInfo[]> {
  return (await readLeases(backend, signal)).live;
}

/** One that cannot be read counts as a held upload until it is as old as a lease may become. */
export async function readLease(
  backend: Backend,
  { key, modifiedMs }: Pick<ObjectInfo, 'key' | 'modifiedMs'>,
  signal: AbortSignal,
): Promise<LeaseInfo | 'over' | undefined> {
  const bytes = await backend.get(key, { signal });
  if (bytes === undefined) {
    return undefined;
  }
  const id = key.slice(PREFIX.leases.length).replace(/\.json$/, '');
  const unknown = { purpose: 'upload', checkpointId: '', since: '', expiresAt: iso(modifiedMs + LEASE_MS) } as const;
  const content = leaseContent.safeParse(readJson(bytes)).data ?? unknown;
  return isOver(content.expiresAt) ? 'over' : { id, ...content };
}

/** A time that is none has not come. */
function isOver(expiresAt: string): boolean {
  return Date.parse(expiresAt) + CLOCK_SKEW_MS <= Date.now();
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}

/** undefined for what is no JSON */
export function readJson(bytes: Uint8Array | undefined): unknown {
  try {
    return bytes === undefined ? undefined : JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    if (error instanceof SyntaxError) {
      return undefined;
    }
    throw error;
  }
}

/*
 * Who reads or writes in a store, and what is about to go: the part of the garbage collection protocol that writers,
 * readers and `rm` keep. The store is consistent (a write is seen by every later read), so two rules suffice:
 *
 *   writers, readers   write the lease, then read condemned/, indexes or manifests
 *   deleters           write condemned/, then read leases/; while a lease lives that could use a pack, they leave it
 *
 * Of two that meet, at least one sees the other.
 */
import { randomBytes } from 'node:crypto';
import * as z from 'zod';
import { packId } from '../core/checkpoint/manifest.ts';
import { messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { condemnedKey, leaseKey, PREFIX } from './keys.ts';

/** A dead holder keeps packs from being deleted for at most this long. */
export const LEASE_MS = 3_600_000;
/** Clocks of nodes may differ by this much. */
const CLOCK_SKEW_MS = 300_000;

const leaseContent = z.object({
  purpose: z.enum(['upload', 'read']),
  checkpointId: z.string(),
  /** ISO time */
  expiresAt: z.string(),
});
const condemnedContent = z.object({ packs: z.array(packId) });

export interface LeaseInfo extends z.output<typeof leaseContent> {
  readonly id: string;
}

export interface Lease {
  /** Stops renewing and leaves the lease to expire: for what goes on in a later step. */
  stop(): void;
  /** Removes the lease. A store that fails now is only logged: the lease then expires. */
  release(): Promise<void>;
}

/**
 * Writes the lease and renews it until `stop` or `release`.
 * Crash: it expires after `LEASE_MS`.
 */
export async function acquireLease(
  backend: Backend,
  lease: { readonly id: string; readonly purpose: 'upload' | 'read'; readonly checkpointId: string },
  op: Op,
): Promise<Lease> {
  const { id, purpose, checkpointId } = lease;
  const write = (): Promise<void> => {
    const content = { purpose, checkpointId, expiresAt: new Date(Date.now() + LEASE_MS).toISOString() };
    return backend.put(leaseKey(id), Buffer.from(JSON.stringify(content)), { signal: op.signal });
  };
  await write();
  const timer = setInterval(() => {
    write().catch((error: unknown) => op.log.warn({ lease: id, reason: messageOf(error) }, 'lease not renewed'));
  }, LEASE_MS / 6).unref();
  return {
    stop: () => clearInterval(timer),
    release: async () => {
      clearInterval(timer);
      await removeLease(backend, id, op);
    },
  };
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

/** Leases that may still be held. One that cannot be read counts as held. */
export async function liveLeases(backend: Backend, signal: AbortSignal): Promise<LeaseInfo[]> {
  const live: LeaseInfo[] = [];
  for await (const { key } of backend.list(PREFIX.leases, { signal })) {
    const bytes = await backend.get(key, { signal });
    const id = key.slice(PREFIX.leases.length).replace(/\.json$/, '');
    const content = leaseContent.safeParse(readJson(bytes));
    if (!content.success) {
      if (bytes !== undefined) {
        live.push({ id, purpose: 'upload', checkpointId: '', expiresAt: '' });
      }
    } else if (Date.parse(content.data.expiresAt) + CLOCK_SKEW_MS > Date.now()) {
      live.push({ id, ...content.data });
    }
  }
  return live;
}

/** Packs that somebody is about to delete: to a writer they are absent. */
export async function condemnedPacks(backend: Backend, signal: AbortSignal): Promise<Set<string>> {
  const packs = new Set<string>();
  for await (const { key } of backend.list(PREFIX.condemned, { signal })) {
    const content = condemnedContent.safeParse(readJson(await backend.get(key, { signal })));
    for (const pack of content.success ? content.data.packs : []) {
      packs.add(pack);
    }
  }
  return packs;
}

/** What a deletion has condemned and not yet finished; undefined when there is none of this id. */
export async function readCondemned(
  backend: Backend,
  id: string,
  signal: AbortSignal,
): Promise<readonly string[] | undefined> {
  const content = condemnedContent.safeParse(readJson(await backend.get(condemnedKey(id), { signal })));
  return content.success ? content.data.packs : undefined;
}

export async function writeCondemned(
  backend: Backend,
  id: string,
  packs: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  await backend.put(condemnedKey(id), Buffer.from(JSON.stringify({ packs })), { signal });
}

function readJson(bytes: Uint8Array | undefined): unknown {
  try {
    return bytes === undefined ? undefined : JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    if (error instanceof SyntaxError) {
      return undefined;
    }
    throw error;
  }
}

/*
 * Deletes a checkpoint from a store: the manifest first, then the packs that nobody else needs, at once, so that `rm`
 * frees space. Where it cannot be sure that nobody needs a pack, the pack stays for the garbage collection.
 */
import { isKybernateError, KybernateError } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { findManifest, manifestIds } from './catalog.ts';
import { checkpointOfManifest, condemnedKey, damagedKey, indexKey, manifestKey, packKey, PREFIX } from './keys.ts';
import { readCondemned, writeCondemned } from './condemned.ts';
import { LEASE_MS, liveLeases } from './lease.ts';
import { forEachLimit } from './limit.ts';

const PARALLEL_CALLS = 8;
/** Half-made objects older than this belong to writers that are dead. */
const STALE_MS = 86_400_000;

export interface Removed {
  /** size of the packs that were deleted */
  readonly freedBytes: number;
  /** packs of this checkpoint that stay: others use them, or may be about to */
  readonly keptPacks: number;
}

/**
 * Removes a published checkpoint. Safe beside uploads and fetches: lease.ts says why. A call that was cut off is
 * finished by the next one.
 * Crash: once the manifest is gone the checkpoint is gone; packs may be left for the next call or the collection.
 * @throws CheckpointNotFound, StorageUnavailable, StorageDenied; InvalidInput for an id that is none
 */
export async function removeCheckpoint(backend: Backend, checkpointId: string, op: Op): Promise<Removed> {
  const { signal } = op;
  const condemnedId = `rm-${parseCheckpointId(checkpointId)}`;
  const packs =
    (await packsOf(backend, checkpointId, op)) ?? (await readCondemned(backend, condemnedId, signal))?.packs;
  if (packs === undefined) {
    throw new KybernateError('CheckpointNotFound', `${backend.url} has no checkpoint ${checkpointId}`, {
      details: { checkpointId, store: backend.url },
    });
  }
  await backend.delete(manifestKey(checkpointId), { signal });
  await removeFileLists(backend, checkpointId, signal);
  const validUntil = new Date(Date.now() + LEASE_MS).toISOString();
  await writeCondemned(backend, condemnedId, { packs: [...packs], validUntil }, signal);
  const unused = await unusedPacks(backend, checkpointId, packs, op);
  let freedBytes = 0;
  await forEachLimit(unused, PARALLEL_CALLS, signal, async (pack) => {
    const bytes = (await backend.head(packKey(pack), { signal }))?.bytes ?? 0;
    await backend.delete(packKey(pack), { signal });
    await backend.delete(indexKey(pack), { signal });
    await backend.delete(damagedKey(pack), { signal });
    freedBytes += bytes;
    op.progress({ phase: 'deleting', bytesDone: freedBytes });
  });
  await backend.delete(condemnedKey(condemnedId), { signal });
  const swept = await backend.sweep(STALE_MS, { signal });
  const keptPacks = packs.length - unused.length;
  op.log.info({ checkpointId, freedBytes, keptPacks, swept }, 'checkpoint removed from the store');
  return { freedBytes, keptPacks };
}

/** undefined when there is no manifest; none for one that cannot be read: its packs are left to the collection. */
async function packsOf(backend: Backend, checkpointId: string, op: Op): Promise<string[] | undefined> {
  try {
    const manifest = await findManifest(backend, checkpointId, op.signal);
    return manifest?.packs.map(([id]) => id);
  } catch (error) {
    if (!isKybernateError(error, 'CheckpointCorrupt')) {
      throw error;
    }
    op.log.warn({ checkpointId, reason: error.message }, 'damaged manifest removed; its packs stay');
    return [];
  }
}

async function removeFileLists(backend: Backend, checkpointId: string, signal: AbortSignal): Promise<void> {
  for await (const { key } of backend.list(`${PREFIX.checkpoints}${checkpointId}/`, { signal })) {
    if (checkpointOfManifest(key) === undefined) {
      await backend.delete(key, { signal });
    }
  }
}

/** Of condemned packs those that no manifest names, while no lease lives that could name one. */
async function unusedPacks(
  backend: Backend,
  checkpointId: string,
  packs: readonly string[],
  op: Op,
): Promise<string[]> {
  const leases = await liveLeases(backend, op.signal);
  const inTheWay = leases.filter((lease) => lease.purpose === 'upload' || lease.checkpointId === checkpointId);
  if (inTheWay.length > 0) {
    op.log.info({ checkpointId, leases: inTheWay.map(({ id }) => id) }, 'packs stay: somebody may be using them');
    return [];
  }
  const unused = new Set(packs);
  try {
    // After the leases: what was published by a holder that we no longer see is listed now.
    await forEachLimit(manifestIds(backend, op.signal), PARALLEL_CALLS, op.signal, async (id) => {
      const other = await findManifest(backend, id, op.signal);
      for (const [pack] of other?.packs ?? []) {
        unused.delete(pack);
      }
    });
  } catch (error) {
    if (!isKybernateError(error, 'CheckpointCorrupt')) {
      throw error;
    }
    op.log.warn({ checkpointId, reason: error.message }, 'packs stay: another manifest cannot be read');
    return [];
  }
  return [...unused];
}

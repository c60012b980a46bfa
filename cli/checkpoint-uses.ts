/* Who uses a checkpoint right now: restores of this node, uploads, and those who read or write it in the store. */
import { existsSync } from 'node:fs';
import { restoresUsing } from '../engine/restore-operation.ts';
import { isKybernateError } from '../core/errors.ts';
import type { Backend } from '../store/backend/backend.ts';
import { manifestKey } from '../store/keys.ts';
import { liveLeases } from '../store/lease.ts';
import type { LocalCatalog } from '../store/local-catalog.ts';

export interface CheckpointUse {
  /** what uses it, in words */
  readonly why: string;
  readonly remedy: string;
}

export interface UsePlaces {
  readonly catalog: Pick<LocalCatalog, 'get'>;
  /** undefined: the store is not asked */
  readonly backend: Backend | undefined;
  /** absent: restores of this node do not matter */
  readonly restores?: Parameters<typeof restoresUsing>[0];
}

/**
 * Reads the leases of the store once.
 * @returns tells of one checkpoint who uses it; undefined: nobody
 * @throws StorageUnavailable, StorageDenied; the function that it returns: CheckpointCorrupt
 */
export async function usesOf({
  catalog,
  backend,
  restores,
}: UsePlaces): Promise<(checkpointId: string) => Promise<CheckpointUse | undefined>> {
  const leases = backend === undefined ? [] : await liveLeases(backend, new AbortController().signal);
  return async (checkpointId) => {
    const operations = restores === undefined ? [] : restoresUsing(restores, checkpointId);
    if (operations.length > 0) {
      const why = `it is being restored on this node (operation ${operations.join(', ')})`;
      return { why, remedy: 'wait until the restore is over, or remove it with --force' };
    }
    if (await isPending(catalog, checkpointId)) {
      const why = 'it is not in the store yet, its upload is pending';
      return { why, remedy: 'wait until the upload is over, or remove it with --force' };
    }
    const ours = leases.filter((lease) => lease.checkpointId === checkpointId);
    const last = ours
      .map(({ expiresAt }) => expiresAt)
      .sort()
      .at(-1);
    if (last === undefined) {
      return undefined;
    }
    const why = `the store has a lease on it: ${ours.map((one) => `${one.purpose} until ${one.expiresAt}`).join(', ')}`;
    const what = [...new Set(ours.map(({ purpose }) => purpose))].sort().join(' and ');
    // Whoever is still at it renews the lease; that of a dead one runs out.
    return {
      why,
      remedy: `wait until the ${what} is over (if its process died: until ${last}), or remove it with --force`,
    };
  };
}

async function isPending(catalog: UsePlaces['catalog'], checkpointId: string): Promise<boolean> {
  try {
    return (await catalog.get(checkpointId)).uploadPending;
  } catch (error) {
    if (isKybernateError(error, 'CheckpointNotFound')) {
      return false;
    }
    throw error;
  }
}

/** Whether there is something to remove in one of these places: on the node also what a half-made checkpoint left. */
export async function isSomewhere(
  checkpointId: string,
  catalog: Pick<LocalCatalog, 'pathOf'> | undefined,
  backend: Backend | undefined,
): Promise<boolean> {
  return (
    (catalog !== undefined && existsSync(catalog.pathOf(checkpointId))) ||
    (await backend?.head(manifestKey(checkpointId))) !== undefined
  );
}

/* Who uses a checkpoint right now: restores of a node, uploads, and those who read or write it in the store. */
import { existsSync } from 'node:fs';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import type { Backend } from './backend/backend.ts';
import { manifestKey } from './keys.ts';
import { liveLeases } from './lease.ts';
import type { LocalCatalog } from './local-catalog.ts';

export interface CheckpointUse {
  /** what uses it, in words */
  readonly why: string;
  readonly remedy: string;
}

export interface UsePlaces {
  /** of a node; absent: no node is asked */
  readonly catalog?: Pick<LocalCatalog, 'get'> | undefined;
  /** absent: the store is not asked */
  readonly backend?: Backend | undefined;
  /** operations of the node that restore from a checkpoint right now; absent: they do not matter */
  readonly restores?: (checkpointId: string) => readonly string[];
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
    const operations = restores?.(checkpointId) ?? [];
    if (operations.length > 0) {
      const why = `it is being restored on this node (operation ${operations.join(', ')})`;
      return { why, remedy: 'wait until the restore is over, or remove it by force' };
    }
    if (catalog !== undefined && (await isPending(catalog, checkpointId))) {
      const why = 'it is not in the store yet, its upload is pending';
      return { why, remedy: 'wait until the upload is over, or remove it by force' };
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
      remedy: `wait until the ${what} is over (if its process died: until ${last}), or remove it by force`,
    };
  };
}

/** @throws CheckpointInUse there is somebody; nothing was removed */
export function refuseUsed(checkpointId: string, use: CheckpointUse | undefined): void {
  if (use !== undefined) {
    const { why, remedy } = use;
    throw new KybernateError('CheckpointInUse', `checkpoint ${checkpointId} was not removed: ${why}`, {
      details: { checkpointId, remedy },
    });
  }
}

async function isPending(catalog: Pick<LocalCatalog, 'get'>, checkpointId: string): Promise<boolean> {
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

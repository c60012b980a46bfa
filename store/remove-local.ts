/* Takes the copy of a checkpoint away from a node, never from under a restore. */
import { rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { KybernateError } from '../core/errors.ts';
import { errnoOf } from './files.ts';
import type { LocalCatalog } from './local-catalog.ts';

export interface RemoveLocalOptions {
  readonly catalog: Pick<LocalCatalog, 'pathOf' | 'remove'>;
  readonly checkpointId: string;
  /** restores that use the checkpoint right now */
  readonly users: () => readonly string[];
}

/**
 * Removes the local copy. A restore takes its lease before it looks at the directory; so the directory is moved away
 * between two looks at the leases, and moved back when the second look finds one.
 * Crash: a directory `removing-<id>` may be left, which is no checkpoint; removing the same id again takes it away.
 * @throws CheckpointInUse nothing was removed; CheckpointNotFound
 */
export async function removeLocal({ catalog, checkpointId, users }: RemoveLocalOptions): Promise<void> {
  const path = catalog.pathOf(checkpointId);
  const away = join(dirname(path), `removing-${checkpointId}`);
  refuseRestored(checkpointId, users());
  await rm(away, { recursive: true, force: true });
  try {
    await rename(path, away);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      // Says CheckpointNotFound, in the words of the catalog.
      await catalog.remove(checkpointId);
    }
    throw error;
  }
  try {
    refuseRestored(checkpointId, users());
  } catch (error) {
    await rename(away, path);
    throw error;
  }
  await rm(away, { recursive: true });
}

function refuseRestored(checkpointId: string, users: readonly string[]): void {
  if (users.length > 0) {
    throw new KybernateError(
      'CheckpointInUse',
      `checkpoint ${checkpointId} is being restored on this node (operation ${users.join(', ')}); it was not removed`,
      { details: { checkpointId, users } },
    );
  }
}

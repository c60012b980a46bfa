/* Takes the copy of a checkpoint away from this node, never from under a restore. */
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { LocalCatalog } from '../store/local-catalog.ts';
import { CliError } from './exit-codes.ts';

export interface RemoveLocalOptions {
  readonly catalog: Pick<LocalCatalog, 'pathOf' | 'remove'>;
  /** the node's `checkpoints` directory */
  readonly checkpointsDir: string;
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
export async function removeLocal({ catalog, checkpointsDir, checkpointId, users }: RemoveLocalOptions): Promise<void> {
  const path = catalog.pathOf(checkpointId);
  const away = join(checkpointsDir, `removing-${checkpointId}`);
  refuseUsed(checkpointId, users());
  await rm(away, { recursive: true, force: true });
  try {
    await rename(path, away);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      // Says CheckpointNotFound, in the words of the catalog.
      await catalog.remove(checkpointId);
    }
    throw error;
  }
  try {
    refuseUsed(checkpointId, users());
  } catch (error) {
    await rename(away, path);
    throw error;
  }
  await rm(away, { recursive: true });
}

function refuseUsed(checkpointId: string, users: readonly string[]): void {
  if (users.length > 0) {
    throw new CliError(
      'CheckpointInUse',
      `checkpoint ${checkpointId} is being restored on this node (operation ${users.join(', ')}); it was not removed`,
      { details: { checkpointId, users } },
    );
  }
}

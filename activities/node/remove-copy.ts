/* The copy of a checkpoint on this node goes, as `kybernate rm --local` does it. */
import type { CopyRemoval, RemoveStepInput } from '../../core/contract/delete-checkpoint.ts';
import { isKybernateError } from '../../core/errors.ts';
import { restoresUsing } from '../../engine/restore-operation.ts';
import { refuseUsed, usesOf } from '../../store/checkpoint-uses.ts';
import { removeLocal } from '../../store/remove-local.ts';
import type { NodeActivityDeps } from './deps.ts';

/** @throws CheckpointInUse it is restored here, or its upload is pending */
export async function checkUnused(
  { node, catalog }: NodeActivityDeps,
  { checkpointId, force }: RemoveStepInput,
): Promise<void> {
  if (!force) {
    const uses = await usesOf({ catalog, restores: (id) => restoresUsing(node.settings, id) });
    refuseUsed(checkpointId, await uses(checkpointId));
  }
}

/**
 * Idempotent.
 * @throws CheckpointInUse nothing was removed
 * Crash: as `removeLocal`
 */
export async function removeCopy(deps: NodeActivityDeps, input: RemoveStepInput): Promise<CopyRemoval> {
  const { checkpointId, force } = input;
  const { node, catalog } = deps;
  await checkUnused(deps, input);
  try {
    const users = (): readonly string[] => (force ? [] : restoresUsing(node.settings, checkpointId));
    await removeLocal({ catalog, checkpointId, users });
    return { found: true };
  } catch (error) {
    if (isKybernateError(error, 'CheckpointNotFound')) {
      return { found: false };
    }
    throw error;
  }
}

import { cancellationSignal } from '@temporalio/activity';
import { isKybernateError } from '../../core/errors.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { getManifest } from '../../store/catalog.ts';
import type { ControlActivities } from '../contract.ts';
import { listStored } from '../../store/registry.ts';
import { withOp } from '../op.ts';
import { olderOf, resolvedFrom } from '../resolved.ts';

/** @param backend the store; absent: this worker has none, so nothing is found there */
export function catalogActivities(
  backend?: () => Promise<Backend>,
): Pick<ControlActivities, 'findCheckpoint' | 'olderStored'> {
  return {
    olderStored: (input) =>
      withOp({}, async (op) =>
        backend === undefined
          ? { checkpoints: [] }
          : olderOf((await listStored(await backend(), op, { registry: 'auto' })).checkpoints, input),
      ),
    async findCheckpoint({ checkpointId }) {
      if (backend === undefined) {
        return {};
      }
      try {
        const { metadata } = await getManifest(await backend(), checkpointId, cancellationSignal());
        return { found: resolvedFrom('store', metadata) };
      } catch (error) {
        if (isKybernateError(error, 'CheckpointNotFound')) {
          return {};
        }
        throw error;
      }
    },
  };
}

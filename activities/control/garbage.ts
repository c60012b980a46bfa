import { KybernateError } from '../../core/errors.ts';
import type { Backend } from '../../store/backend/backend.ts';
import {
  condemnGarbage,
  confirmGarbage,
  deleteGarbage,
  forgetCollection,
  type Collection,
} from '../../store/gc/collect.ts';
import { refuseUsed, usesOf } from '../../store/checkpoint-uses.ts';
import { sweepLeftovers } from '../../store/gc/leftovers.ts';
import { listStored } from '../../store/registry.ts';
import { removeCheckpoints } from '../../store/remove.ts';
import type { GarbageActivities } from '../contract.ts';
import { withOp, type ActivityOp } from '../op.ts';

/** @param backend the store; absent: this worker has none */
export function garbageActivities(backend?: () => Promise<Backend>): GarbageActivities {
  async function storeOf(): Promise<Backend> {
    if (backend === undefined) {
      throw new KybernateError('InvalidInput', 'the control worker has no store: set KYBERNATE_STORE there');
    }
    return backend();
  }
  /** A run's rounds have names of their own: what one has confirmed is not touched by the next. */
  async function collectionOf(op: ActivityOp, round: number): Promise<Collection> {
    return { backend: await storeOf(), collectionId: `${op.operationId}r${round}`, op };
  }
  return {
    condemnGarbage: ({ round, dryRun }) =>
      withOp({ phase: 'marking' }, async (op) => {
        const collection = await collectionOf(op, round);
        return { store: collection.backend.url, ...(await condemnGarbage(collection, dryRun)) };
      }),
    confirmGarbage: ({ round, listId, lists }) =>
      withOp({ phase: 'waiting' }, async (op) => confirmGarbage(await collectionOf(op, round), listId, lists)),
    deleteGarbage: ({ round, listId, list }) =>
      withOp({ phase: 'deleting' }, async (op) => deleteGarbage(await collectionOf(op, round), listId, list)),
    forgetGarbage: ({ round }) => withOp({}, async (op) => forgetCollection(await collectionOf(op, round))),
    sweepLeftovers: ({ dryRun }) =>
      withOp({}, async (op) => {
        const store = await storeOf();
        const leftovers = await sweepLeftovers(store, op, dryRun);
        if (!dryRun) {
          // Lists are fast behind a collection: this worker may write where those who list may not.
          await listStored(store, op);
        }
        return leftovers;
      }),
    removeStored: ({ checkpointId, force }) =>
      withOp({ phase: 'deleting' }, async (op) => {
        const store = await backend?.();
        if (store !== undefined && !force) {
          refuseUsed(checkpointId, await (await usesOf({ backend: store }))(checkpointId));
        }
        const [removed] = store === undefined ? [] : await removeCheckpoints(store, [checkpointId], op);
        return { found: removed !== undefined, ...(removed ?? { freedBytes: 0, keptPacks: 0 }) };
      }),
  };
}

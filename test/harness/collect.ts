/* A garbage collection as the workflow runs it, without a workflow: for tests of the store. */
import { setTimeout as wait } from 'node:timers/promises';
import type { CondemnResult, ConfirmResult, Leftovers } from '../../core/contract/collect-garbage.ts';
import type { Op } from '../../core/op.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { condemnGarbage, confirmGarbage, deleteGarbage, forgetCollection } from '../../store/gc/collect.ts';
import { sweepLeftovers } from '../../store/gc/leftovers.ts';

export interface Collected {
  readonly condemned: CondemnResult;
  readonly confirmed?: ConfirmResult;
  readonly leftovers: Leftovers;
}

/** @param sleep between two looks at the leases */
export async function collect(
  backend: Backend,
  collectionId: string,
  op: Op,
  sleep: (ms: number) => Promise<unknown> = (ms) => wait(ms),
): Promise<Collected> {
  const collection = { backend, collectionId, op };
  const condemned = await condemnGarbage(collection);
  const { listId, lists } = condemned;
  if (listId === undefined) {
    return { condemned, leftovers: await sweepLeftovers(backend, op) };
  }
  let confirmed = await confirmGarbage(collection, listId, lists);
  while (confirmed.waitingFor.length > 0) {
    await sleep(300_000);
    confirmed = await confirmGarbage(collection, listId, lists);
  }
  if (confirmed.expired) {
    await forgetCollection(collection);
  } else {
    for (let index = 0; index < lists; index += 1) {
      await deleteGarbage(collection, listId, index);
    }
  }
  return { condemned, confirmed, leftovers: await sweepLeftovers(backend, op) };
}

import { CancellationScope, sleep } from '@temporalio/workflow';
import type { GarbageActivities } from '../activities/contract.ts';
import {
  collectGarbageInput,
  type CollectGarbageRequest,
  type CollectGarbageResult,
  type ConfirmResult,
  type PackSum,
} from '../core/contract/collect-garbage.ts';
import { Compensation } from './compensation.ts';
import { runOperation } from './operation.ts';
import { ProgressTracker, parseRequest } from './progress.ts';
import { garbageProxy } from './proxies.ts';

/** Stands in the place of a node's name: these steps need none. */
const NODE = 'control';
/** Of 200,000 packs each. */
const MAX_ROUNDS = 20;

/**
 * Deletes what no checkpoint of the store needs any more: see store/gc/collect.ts for why that is safe beside uploads,
 * restores, removals and other collections. Cancelled before the first deletion, it leaves everything as it was; once it
 * deletes, it finishes what it has confirmed.
 */
export async function collectGarbage(request: CollectGarbageRequest): Promise<CollectGarbageResult> {
  const input = parseRequest(collectGarbageInput, request);
  const { dryRun, lookEveryMs } = input;
  const progress = new ProgressTracker({ node: NODE, container: 'store', firstPhase: 'marking' });
  const steps = garbageProxy('garbage of the store');
  const undo = new Compensation();
  let deleted: PackSum = { packs: 0, bytes: 0 };
  let kept: PackSum = { packs: 0, bytes: 0 };
  let objects = 0;

  const run = async (round: number): Promise<{ found: Found; expired: boolean }> => {
    progress.enter('marking');
    undo.push('forgetGarbage', () => steps.forgetGarbage({ round }));
    const found = await steps.condemnGarbage({ round, dryRun: false });
    progress.resolved(found.store);
    const { listId, lists } = found;
    if (listId === undefined) {
      undo.settle('forgetGarbage');
      return { found, expired: false };
    }
    progress.enter('waiting');
    const confirmed = await confirm(() => steps.confirmGarbage({ round, listId, lists }), lookEveryMs);
    if (confirmed.expired) {
      return { found, expired: true };
    }
    progress.enter('deleting');
    // From here on a list must not be lifted: an attempt of ours that nobody hears of any more may still be deleting.
    undo.settle('forgetGarbage');
    await CancellationScope.nonCancellable(async () => {
      for (let list = 0; list < lists; list += 1) {
        await steps.deleteGarbage({ round, listId, list });
      }
    });
    deleted = plus(deleted, confirmed.confirmed);
    kept = plus(kept, confirmed.kept);
    objects += confirmed.objects;
    return { found, expired: false };
  };

  return runOperation({ node: NODE, undo, progress, delivered: () => Promise.resolve() }, async () => {
    if (dryRun) {
      const found = await steps.condemnGarbage({ round: 0, dryRun });
      progress.resolved(found.store);
      const leftovers = await steps.sweepLeftovers({ dryRun });
      return {
        ...told(found),
        dryRun,
        deleted: found.garbage,
        kept,
        objects: found.objects,
        leftovers,
        unfinished: false,
      };
    }
    const first = await run(0);
    let last = first;
    for (let round = 1; last.found.more && !last.expired && round < MAX_ROUNDS; round += 1) {
      last = await run(round);
    }
    if (last.expired) {
      await undo.run();
    }
    const leftovers = await steps.sweepLeftovers({ dryRun });
    const unfinished = last.expired || last.found.more;
    return { ...told(first.found), dryRun, deleted, kept, objects, leftovers, unfinished };
  });
}

type Found = Awaited<ReturnType<GarbageActivities['condemnGarbage']>>;

function told({
  store,
  checkpoints,
  stored,
  young,
}: Found): Pick<CollectGarbageResult, 'store' | 'checkpoints' | 'stored' | 'young'> {
  return { store, checkpoints, stored, young };
}

/** Waits until nobody is left who may need what is condemned; it ends when the lists run out at the latest. */
async function confirm(look: () => Promise<ConfirmResult>, lookEveryMs: number): Promise<ConfirmResult> {
  for (;;) {
    const confirmed = await look();
    if (confirmed.waitingFor.length === 0) {
      return confirmed;
    }
    await sleep(lookEveryMs);
  }
}

function plus(left: PackSum, right: PackSum): PackSum {
  return { packs: left.packs + right.packs, bytes: left.bytes + right.bytes };
}

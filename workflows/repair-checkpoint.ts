import {
  repairInput,
  type NodeRepair,
  type PlaceReport,
  type RepairInput,
  type RepairRequest,
  type RepairResult,
  type StoreRepair,
} from '../core/contract/verify.ts';
import { Compensation } from './compensation.ts';
import { failure, typeOf } from './failures.ts';
import { runOperation } from './operation.ts';
import { ProgressTracker, parseRequest } from './progress.ts';
import { nodeProxies, type NodeProxies } from './proxies.ts';
import { lookAt, notFoundAnywhere } from './verify-checkpoint.ts';

/**
 * Chunks that are sent again may be found in other packs, which this checkpoint did not use before and which may be
 * damaged, too: the look after the repair finds that.
 */
const ROUNDS = 3;

/**
 * Makes the copies of a checkpoint whole again, one from the other: first the store from what is whole on the node, then
 * the node from the store. Idempotent; nothing is undone, since every step leaves a copy no worse than it was.
 */
export async function repairCheckpoint(request: RepairRequest): Promise<RepairResult> {
  const input = parseRequest(repairInput, request);
  const { node, checkpointId, timeouts } = input;
  const progress = new ProgressTracker({ node, container: checkpointId, checkpointId, firstPhase: 'verifying' });
  const steps = nodeProxies({ node, timeouts, summary: `${checkpointId} on ${node}` });
  const frame = { node, progress, undo: new Compensation(), delivered: () => Promise.resolve() };
  return runOperation(frame, async () => {
    const look = { checkpointId, where: 'both', mode: 'full' } as const;
    const before = await lookAt(steps, look);
    if (!before.some(({ found }) => found)) {
      throw notFoundAnywhere(checkpointId, before);
    }
    let after = before;
    const done: { store?: StoreRepair; nodeCopy?: NodeRepair } = {};
    for (let round = 0; round < ROUNDS && broken(after, input).length > 0; round += 1) {
      progress.enter('repairing');
      await repairOnce(steps, input, after, done);
      progress.enter('verifying');
      after = await lookAt(steps, look);
    }
    const left = broken(after, input);
    if (left.length > 0) {
      throw lost(checkpointId, left);
    }
    return { checkpointId, node, before, after, ...done };
  });
}

/** The places that are to be repaired and are not whole. */
function broken(places: readonly PlaceReport[], { where }: Pick<RepairInput, 'where'>): PlaceReport[] {
  return places.filter(({ place, found, ok }) => !ok && (where === 'both' ? found : where === place));
}

async function repairOnce(
  steps: NodeProxies,
  input: RepairInput,
  places: readonly PlaceReport[],
  done: { store?: StoreRepair; nodeCopy?: NodeRepair },
): Promise<void> {
  const { checkpointId } = input;
  const wanted = broken(places, input).map(({ place }) => place);
  let storeIsWhole = places.some(({ place, ok }) => place === 'store' && ok);
  if (wanted.includes('store')) {
    // From tiers of the node, too, and from what is whole of a damaged copy there.
    const repaired = await orLost(checkpointId, places, () => steps.transfer.repairStored({ checkpointId }));
    await steps.note.confirmUpload({ checkpointId });
    done.store = sum(done.store, repaired);
    storeIsWhole = true;
  }
  if (wanted.includes('node')) {
    if (!storeIsWhole) {
      throw lost(checkpointId, places);
    }
    done.nodeCopy = await orLost(checkpointId, places, () => steps.fetch.repairNodeCopy({ checkpointId }));
  }
}

/** What one place lost is not whole in the other either: the message says what, the details say all that is damaged. */
async function orLost<Result>(
  checkpointId: string,
  places: readonly PlaceReport[],
  act: () => Promise<Result>,
): Promise<Result> {
  try {
    return await act();
  } catch (error) {
    throw typeOf(error) === 'CheckpointCorrupt' ? lost(checkpointId, places, error) : error;
  }
}

function lost(checkpointId: string, places: readonly PlaceReport[], error?: unknown): Error {
  const damaged = places.filter(({ ok }) => !ok);
  const reasons = damaged.map(({ found, where, problems, problemCount }) =>
    found ? `${where}: ${problems[0]?.message ?? 'damaged'} (${problemCount} problems)` : `${where}: not there`,
  );
  const cause = error instanceof Error ? error : undefined;
  const message = `${checkpointId} cannot be repaired, it is whole nowhere: ${reasons.join('; ')}`;
  const details = {
    checkpointId,
    places: damaged.map((place) => ({ ...place, problems: place.problems.slice(0, 20) })),
  };
  return failure(
    'CheckpointCorrupt',
    cause === undefined ? message : `${message}; ${rootMessage(cause)}`,
    details,
    cause,
  );
}

function rootMessage(error: Error): string {
  return error.cause instanceof Error ? rootMessage(error.cause) : error.message;
}

function sum(before: StoreRepair | undefined, more: StoreRepair): StoreRepair {
  const unique = (one: readonly string[] = [], other: readonly string[]): string[] => [...new Set([...one, ...other])];
  return {
    restoredPacks: unique(before?.restoredPacks, more.restoredPacks),
    markedPacks: unique(before?.markedPacks, more.markedPacks),
    rewrittenIndexes: unique(before?.rewrittenIndexes, more.rewrittenIndexes),
    newChunks: (before?.newChunks ?? 0) + more.newChunks,
    sentBytes: (before?.sentBytes ?? 0) + more.sentBytes,
  };
}

/*
 * What was deleted from the store must not live on in the tiers of nodes: checkpoints are memory of containers. Whoever
 * deletes does not know the tiers, so every node looks now and then what the store still has.
 */
import type { Logger } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import { manifestIds } from '../catalog.ts';
import { indexKey, manifestKey, packKey, packOfKey, PREFIX } from '../keys.ts';
import type { CopyGuard } from './copy-guard.ts';
import type { Tier } from './tier.ts';

export interface TidyParts {
  readonly store: Backend;
  readonly tiers: readonly Tier[];
  readonly guard: CopyGuard;
  readonly log: Logger;
}

/**
 * Drops packs that the store no longer has and no checkpoint names, and what belongs to checkpoints that are gone, pins
 * included. A pack that a checkpoint still names stays: the store has lost it.
 * @throws StorageUnavailable, StorageDenied; what was dropped until then was garbage
 */
export async function tidyTiers({ store, tiers, guard, log }: TidyParts, signal: AbortSignal): Promise<void> {
  const listed = new Set<string>();
  for await (const { key } of store.list(PREFIX.packs, { signal })) {
    listed.add(packOfKey(key) ?? '');
  }
  const published = new Set<string>();
  for await (const id of manifestIds(store, signal)) {
    published.add(id);
  }
  let dropped = 0;
  for (const tier of tiers) {
    for (const pack of tier.packs().keys()) {
      if (listed.has(pack)) {
        guard.noteStored(pack);
      } else if (!tier.holds.has(pack) && (await guard.isGarbage(pack))) {
        await tier.drop(packKey(pack));
        await tier.drop(indexKey(pack));
        dropped += 1;
      }
    }
    for (const id of new Set([...tier.checkpoints(), ...pinnedIn([tier])])) {
      // Published since the list was made, perhaps.
      if (!published.has(id) && (await store.head(manifestKey(id), { signal })) === undefined) {
        await forgetDeleted([tier], id);
        dropped += 1;
      }
    }
  }
  if (dropped > 0) {
    log.info({ dropped }, 'copies of what the store has no longer were dropped from the tiers');
  }
}

/**
 * The same when pinned checkpoints were deleted, which costs one question each: a pin keeps packs from being evicted, so it
 * must not outlive its checkpoint for long.
 * @throws as `tidyTiers`
 */
export async function tidyPins(parts: TidyParts, signal: AbortSignal): Promise<void> {
  const { store, tiers, log } = parts;
  const deleted: string[] = [];
  for (const id of pinnedIn(tiers)) {
    if ((await store.head(manifestKey(id), { signal })) === undefined) {
      await forgetDeleted(tiers, id);
      deleted.push(id);
    }
  }
  if (deleted.length > 0) {
    log.info({ checkpointIds: deleted }, 'pins of checkpoints that were deleted from the store were taken away');
    await tidyTiers(parts, signal);
  }
}

function pinnedIn(tiers: readonly Tier[]): Set<string> {
  return new Set(tiers.flatMap(({ pins }) => pins.list().map(({ checkpointId }) => checkpointId)));
}

/**
 * The store has no such checkpoint: its manifest, file lists and pins go. Its packs may be others', too.
 * @param checkpointId undefined where it was none
 */
export async function forgetDeleted(tiers: readonly Tier[], checkpointId: string | undefined): Promise<void> {
  if (checkpointId === undefined) {
    return;
  }
  for (const tier of tiers) {
    await tier.dropCheckpoint(checkpointId);
    await tier.pins.remove(checkpointId);
  }
}

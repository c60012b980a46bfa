/* Brings the packs of a checkpoint to a tier of this node before somebody needs them. */
import { KybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import { indexKey, packKey } from '../keys.ts';
import { acquireLease, newReadLeaseId } from '../lease.ts';
import { forEachLimit } from '../limit.ts';
import { readPackTail } from '../pack-index.ts';
import { orAborted } from './bring.ts';
import { packsOf } from './residency.ts';
import { residentBackend } from './resident.ts';
import type { Tier, TierName } from './tier.ts';
import type { TieredBackend } from './tiered.ts';

const PARALLEL_PACKS = 4;

export interface PrefetchRequest {
  readonly checkpointId: string;
  readonly backend: TieredBackend;
  readonly tier: TierName;
  /** keeps the packs from being evicted; without `expiresAt` (ISO time) until they are unpinned */
  readonly pin?: { readonly expiresAt?: string };
  readonly op: Op;
}

export interface Prefetched {
  /** of all packs of the checkpoint */
  readonly bytes: number;
  /** of packs that were in the tier before */
  readonly presentBytes: number;
  /** where the others came from: `ram`, `nvme`, `peer:<node>` or `store` → bytes */
  readonly from: Readonly<Record<string, number>>;
}

/**
 * Brings every pack with its index. What is there is not brought again, so a call that was cut off is continued by the
 * next one. A pin is made first: nothing that came is evicted for what comes later.
 * Crash: some packs are in the tier, and the pin.
 * @throws InvalidInput the node has no such tier; CheckpointNotFound; DiskFull the tier has no room for the checkpoint;
 *   StorageUnavailable, StorageDenied
 */
export async function prefetchCheckpoint({
  checkpointId,
  backend,
  tier: name,
  pin,
  op,
}: PrefetchRequest): Promise<Prefetched> {
  const tier = tierOf(backend, name);
  const lease = await acquireLease(backend, { id: newReadLeaseId(checkpointId), purpose: 'read', checkpointId }, op);
  try {
    const { packs: published } = await packsOf(backend, checkpointId, op.signal);
    const bytes = published.reduce((sum, [, packBytes]) => sum + packBytes, 0);
    if (bytes > tier.budgetBytes) {
      throw noRoom(tier, checkpointId, bytes);
    }
    const packs = published.map(([pack]) => pack);
    const release = tier.holds.add(packs);
    try {
      if (pin !== undefined) {
        await tier.pins.add({ checkpointId, packs, ...pin });
      }
      const counted = new Counter(bytes, op);
      await forEachLimit(published, PARALLEL_PACKS, op.signal, async ([pack, packBytes]) => {
        const from = await bringPack(backend, tier, pack, packBytes, op.signal);
        if (from === undefined) {
          throw noRoom(tier, checkpointId, bytes);
        }
        counted.add(from, packBytes);
        await keepIndex(backend, tier, pack, op.signal);
      });
      return counted.result();
    } finally {
      release();
      backend.trim();
    }
  } finally {
    await lease.release();
  }
}

/** @throws InvalidInput naming the setting */
export function tierOf(backend: TieredBackend, name: TierName): Tier {
  const tier = backend.tiers.find((candidate) => candidate.name === name);
  if (tier === undefined) {
    const setting = `KYBERNATE_TIER_${name.toUpperCase()}`;
    throw new KybernateError(
      'InvalidInput',
      `this node has no tier ${name}: set ${setting}_DIR and ${setting}_BYTES there`,
    );
  }
  return tier;
}

/** @returns where it came from; `present`; undefined when the tier did not take it */
async function bringPack(
  backend: TieredBackend,
  tier: Tier,
  pack: string,
  bytes: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  signal.throwIfAborted();
  if (tier.bytesOf(packKey(pack)) === bytes) {
    return 'present';
  }
  const coming = backend.bring(pack, tier, bytes);
  const [brought, isStored] = await orAborted(Promise.all([coming.arrived, coming.stored]), signal);
  return isStored ? brought?.from : undefined;
}

/** The pack has it at its end: no need to ask the store. */
async function keepIndex(backend: TieredBackend, tier: Tier, pack: string, signal: AbortSignal): Promise<void> {
  if (tier.bytesOf(indexKey(pack)) === undefined) {
    const tail = await readPackTail(residentBackend([tier]), pack, signal);
    if (tail !== undefined) {
      await backend.keep(indexKey(pack), tail, tier);
    }
  }
}

class Counter {
  readonly #bytesTotal: number;
  readonly #op: Op;
  readonly #from: Record<string, number> = {};
  #bytesDone = 0;

  constructor(bytesTotal: number, op: Op) {
    this.#bytesTotal = bytesTotal;
    this.#op = op;
  }

  add(from: string, bytes: number): void {
    this.#from[from] = (this.#from[from] ?? 0) + bytes;
    this.#bytesDone += bytes;
    this.#op.progress({ phase: 'fetching', bytesDone: this.#bytesDone, bytesTotal: this.#bytesTotal });
  }

  result(): Prefetched {
    const { present = 0, ...from } = this.#from;
    return { bytes: this.#bytesTotal, presentBytes: present, from };
  }
}

function noRoom(tier: Tier, checkpointId: string, neededBytes: number): KybernateError {
  const { tier: name, budgetBytes, usedBytes, pinnedBytes } = tier.state();
  return new KybernateError(
    'DiskFull',
    `the tier ${name} has no room for the ${neededBytes} bytes of ${checkpointId}: ${usedBytes} of ${budgetBytes} bytes are used, ${pinnedBytes} pinned; what came stays there and may be evicted`,
    {
      details: {
        tier: name,
        budgetBytes,
        usedBytes,
        pinnedBytes,
        neededBytes,
        remedy: `raise KYBERNATE_TIER_${name.toUpperCase()}_BYTES there, take pins away, or choose another tier`,
      },
    },
  );
}

/*
 * Keeps a tier from evicting the only copy of a pack. A pack may go when a lower tier or the store has it. One that the
 * store lacks is garbage of a collected checkpoint, unless a manifest still names it: then the store has lost it, and
 * this copy is what a repair needs.
 */
import { messageOf } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import { findManifest, manifestIds } from '../catalog.ts';
import { packKey } from '../keys.ts';
import { forEachLimit } from '../limit.ts';
import { residentBackend } from './resident.ts';
import type { EvictionGuard, Tier } from './tier.ts';

const PARALLEL_MANIFESTS = 8;
/** All manifests are read again at most this often. */
const NAMED_MS = 600_000;
const NEVER = new AbortController().signal;

export interface CopyGuardParts {
  readonly store: Backend;
  /** fastest first */
  readonly tiers: readonly Tier[];
  readonly log: Logger;
}

export class CopyGuard implements EvictionGuard {
  readonly #parts: CopyGuardParts;
  /** seen in the store by this process */
  readonly #stored = new Set<string>();
  #named: { readonly atMs: number; readonly packs: Promise<ReadonlySet<string>> } | undefined;

  constructor(parts: CopyGuardParts) {
    this.#parts = parts;
  }

  /** The store was seen to have the pack. */
  noteStored(pack: string): void {
    this.#stored.add(pack);
  }

  /** The store may not have it any more. */
  forget(pack: string): void {
    this.#stored.delete(pack);
  }

  async mayEvictPack(tier: Tier, pack: string, bytes: number): Promise<boolean> {
    const { store, tiers, log } = this.#parts;
    const below = tiers.slice(tiers.indexOf(tier) + 1);
    if (this.#stored.has(pack) || below.some((lower) => lower.bytesOf(packKey(pack)) === bytes)) {
      return true;
    }
    try {
      if ((await store.head(packKey(pack)))?.bytes === bytes) {
        this.#stored.add(pack);
        return true;
      }
      if (await this.isGarbage(pack)) {
        return true;
      }
      log.warn({ tier: tier.name, pack }, 'the store has lost a pack: the copy in the tier is kept for a repair');
    } catch (error) {
      log.warn(
        { tier: tier.name, pack, reason: messageOf(error) },
        'pack kept: the store does not say whether it has it',
      );
    }
    return false;
  }

  /** The store does not have the pack, and no manifest names it. @throws StorageUnavailable, StorageDenied */
  async isGarbage(pack: string): Promise<boolean> {
    const isThere = (await this.#parts.store.head(packKey(pack))) !== undefined;
    return !isThere && !(await this.#namedPacks()).has(pack);
  }

  /** Its manifest is worth keeping while one of its packs is here. */
  async mayEvictCheckpoint(tier: Tier, checkpointId: string): Promise<boolean> {
    try {
      const manifest = await findManifest(residentBackend([tier]), checkpointId, NEVER);
      return manifest?.packs.every(([pack]) => tier.bytesOf(packKey(pack)) === undefined) ?? true;
    } catch {
      // A copy that cannot be parsed is worth nothing.
      return true;
    }
  }

  /** Of the packs in the tiers those that a manifest of the store names. */
  #namedPacks(): Promise<ReadonlySet<string>> {
    const nowMs = Date.now();
    if (this.#named === undefined || nowMs - this.#named.atMs > NAMED_MS) {
      const packs = this.#readNamed();
      this.#named = { atMs: nowMs, packs };
      packs.catch(() => {
        this.#named = undefined;
      });
    }
    return this.#named.packs;
  }

  async #readNamed(): Promise<ReadonlySet<string>> {
    const { store, tiers } = this.#parts;
    const here = new Set(tiers.flatMap((tier) => [...tier.packs().keys()]));
    const named = new Set<string>();
    await forEachLimit(manifestIds(store, NEVER), PARALLEL_MANIFESTS, NEVER, async (id) => {
      const manifest = await findManifest(store, id, NEVER);
      for (const [pack] of manifest?.packs ?? []) {
        if (here.has(pack)) {
          named.add(pack);
        }
      }
    });
    return named;
  }
}

/*
 * The store behind the tiers of a node. Reads come from the fastest place that has the object; packs that are read to a
 * large part move up one step: store → nvme → ram. Writes go to nvme and to the store at once, from the same bytes, and
 * count only when the store has them. Everything that must be true for all nodes (what there is, leases, what is
 * condemned) is asked of the store itself. Packs, indexes and file lists never change under their names, so a copy is as
 * good as the original; a manifest may be deleted or replaced, so its copy serves only while the store is away.
 */
import { isKybernateError, KybernateError, messageOf } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import type { Backend, ByteRange, CallOptions, GetOptions, ObjectInfo } from '../backend/backend.ts';
import type { StoreKeys } from '../crypto/store-keys.ts';
import { checkpointOfManifest, packOfKey } from '../keys.ts';
import { Bringer, orAborted, type Coming, type Peer } from './bring.ts';
import { CopyGuard } from './copy-guard.ts';
import { Moves, type MovePolicy } from './moves.ts';
import { forgetDeleted, tidyPins, tidyTiers } from './tidy.ts';
import type { Tier, TierName } from './tier.ts';
import { kindOf, type Kind } from './units.ts';

export interface TieredParts {
  readonly store: Backend;
  /** fastest first: ram, nvme */
  readonly tiers: readonly Tier[];
  readonly peers: readonly Peer[];
  readonly log: Logger;
  /** when a pack moves up */
  readonly policy?: Partial<MovePolicy>;
}

export class TieredBackend implements Backend {
  readonly url: string;
  keys?: StoreKeys;
  readonly tiers: readonly Tier[];
  readonly #store: Backend;
  readonly #log: Logger;
  readonly #guard: CopyGuard;
  readonly #bringer: Bringer;
  readonly #moves: Moves;
  readonly #closed = new AbortController();
  /** writes that nobody waits for */
  readonly #background = new Set<Promise<unknown>>();

  constructor(parts: TieredParts) {
    this.url = parts.store.url;
    this.tiers = parts.tiers;
    this.#moves = new Moves(parts.policy);
    this.#store = parts.store;
    this.#log = parts.log;
    this.#guard = new CopyGuard(parts);
    this.#bringer = new Bringer({ ...parts, guard: this.#guard });
    this.trim();
  }

  async get(key: string, options: GetOptions = {}): Promise<Uint8Array | undefined> {
    options.signal?.throwIfAborted();
    const kind = kindOf(key);
    if (kind === undefined || this.tiers.length === 0 || options.pastCopies === true) {
      return this.#store.get(key, options);
    }
    if (kind === 'manifest') {
      return this.#getManifest(key, options);
    }
    if (options.fresh === true) {
      await this.#forget(key);
    } else {
      for (const [index, tier] of this.tiers.entries()) {
        const bytes = await tier.read(key, options);
        if (bytes !== undefined) {
          this.#moveUp(key, this.tiers[index - 1], bytes.length);
          return bytes;
        }
      }
    }
    const bytes = kind === 'pack' && options.fresh !== true ? await this.#getPack(key, options) : undefined;
    return bytes ?? this.#getAndKeep(key, kind, options);
  }

  async put(key: string, bytes: Uint8Array, options: CallOptions = {}): Promise<void> {
    const tier = this.#tierOf('nvme');
    const kind = kindOf(key);
    if (kind === undefined || kind === 'manifest' || tier === undefined) {
      return this.#store.put(key, bytes, options);
    }
    // Until the store has it, the copy looks like garbage: nobody names it.
    const release = tier.holds.add(kind === 'list' ? [] : [packOfKey(key) ?? '']);
    try {
      const [sent, kept] = await Promise.allSettled([
        this.#store.put(key, bytes, options),
        tier.store(key, bytes, this.#guard),
      ]);
      if (sent.status === 'rejected') {
        await tier.drop(key);
        throw sent.reason;
      }
      if (kept.status === 'rejected') {
        throw kept.reason;
      }
      if (kind === 'pack') {
        this.#guard.noteStored(packOfKey(key) ?? '');
      }
    } finally {
      release();
    }
    this.trim();
  }

  async putIfAbsent(key: string, bytes: Uint8Array, options?: CallOptions): Promise<boolean> {
    const isOurs = await this.#store.putIfAbsent(key, bytes, options);
    if (isOurs && kindOf(key) !== undefined) {
      await this.#refresh(key, bytes);
    }
    return isOurs;
  }

  head(key: string, options?: CallOptions): Promise<ObjectInfo | undefined> {
    return this.#store.head(key, options);
  }

  list(prefix: string, options?: CallOptions & { readonly after?: string }): AsyncIterable<ObjectInfo> {
    return this.#store.list(prefix, options);
  }

  async delete(key: string, options?: CallOptions): Promise<void> {
    await this.#store.delete(key, options);
    if (kindOf(key) !== undefined) {
      await this.#dropCopies(key);
      await forgetDeleted(this.tiers, checkpointOfManifest(key));
    }
  }

  sweep(olderThanMs: number, options?: CallOptions): Promise<number> {
    return this.#store.sweep(olderThanMs, options);
  }

  /** The store itself, past every tier and peer: for whoever asks what is really there. */
  behind(): Backend {
    if (this.keys !== undefined) {
      this.#store.keys = this.keys;
    }
    return this.#store;
  }

  /** Waits for what is under way in the background. */
  async settled(): Promise<void> {
    while (this.#background.size > 0) {
      await Promise.all(this.#background);
    }
  }

  async close(): Promise<void> {
    this.#closed.abort(new KybernateError('StorageUnavailable', 'the tiers were closed'));
    await this.#bringer.close();
    await this.settled();
    await this.#store.close();
  }

  /** Brings a pack to a tier, or joins who does. As `Bringer.bring`. */
  bring(pack: string, tier: Tier, bytes: number): Coming {
    return this.#bringer.bring(pack, tier, bytes);
  }

  /** Takes a small object into a tier; a tier that does not take it is no error. */
  async keep(key: string, bytes: Uint8Array, tier: Tier): Promise<void> {
    await tier.store(key, bytes, this.#guard);
  }

  /** Drops copies of what was deleted from the store; `pins`: looks for what is pinned alone. @throws as `tidyTiers` */
  async tidy(what: 'all' | 'pins' = 'all'): Promise<void> {
    const parts = { store: this.#store, tiers: this.tiers, guard: this.#guard, log: this.#log };
    await (what === 'all' ? tidyTiers : tidyPins)(parts, this.#closed.signal);
  }

  /** Evicts in the background where a tier is nearly full, and forgets pins that are over. */
  trim(): void {
    for (const tier of this.tiers) {
      this.#inBackground(tier.pins.removeExpired().then(() => tier.trim(this.#guard)));
    }
  }

  /** The store first: only it knows whether the checkpoint still exists. */
  async #getManifest(key: string, options: GetOptions): Promise<Uint8Array | undefined> {
    let bytes: Uint8Array | undefined;
    try {
      bytes = await this.#store.get(key, options);
    } catch (error) {
      const copy = isKybernateError(error, 'StorageUnavailable') ? await this.#readCopy(key, options) : undefined;
      if (copy === undefined) {
        throw error;
      }
      this.#log.warn({ key, reason: messageOf(error) }, 'the store is away: the copy of a manifest is used');
      return copy;
    }
    if (bytes === undefined) {
      await this.#dropCopies(key);
      await forgetDeleted(this.tiers, checkpointOfManifest(key));
    } else if (options.range === undefined) {
      await this.#refresh(key, bytes);
    }
    return bytes;
  }

  async #readCopy(key: string, options: GetOptions): Promise<Uint8Array | undefined> {
    for (const tier of this.tiers) {
      const bytes = await tier.read(key, options);
      if (bytes !== undefined) {
        return bytes;
      }
    }
    return undefined;
  }

  /** A manifest that was replaced may be as long as the old one. */
  async #refresh(key: string, bytes: Uint8Array): Promise<void> {
    const tier = this.#lowest();
    const copy = await tier?.read(key);
    if (tier !== undefined && (copy === undefined || Buffer.compare(copy, bytes) !== 0)) {
      await this.#dropCopies(key);
      await tier.store(key, bytes, this.#guard);
    }
  }

  /** @returns undefined when the pack cannot come through the tier: it is read past it then */
  async #getPack(key: string, { range, signal }: GetOptions): Promise<Uint8Array | undefined> {
    const tier = this.#lowest();
    const wanted = range === undefined ? Number.POSITIVE_INFINITY : 'last' in range ? range.last : range.bytes;
    if (tier === undefined || !this.#moves.isWorth(key, tier, wanted)) {
      return undefined;
    }
    const coming = this.#bringer.bring(packOfKey(key) ?? '', tier);
    this.#inBackground(coming.stored.then((isStored) => isStored && this.#moves.came(key)));
    try {
      const brought = await orAborted(coming.arrived, signal);
      if (brought === undefined) {
        this.#moves.foundNoRoom(key, tier);
      }
      return brought === undefined ? undefined : part(brought.bytes, range);
    } catch (error) {
      signal?.throwIfAborted();
      this.#log.warn({ key, reason: messageOf(error) }, 'pack not brought to the tier: it is read from the store');
      return undefined;
    }
  }

  async #getAndKeep(key: string, kind: Kind, options: GetOptions): Promise<Uint8Array | undefined> {
    const bytes = await this.#store.get(key, options);
    const tier = this.#lowest();
    if (bytes !== undefined && kind !== 'pack' && options.range === undefined && tier !== undefined) {
      this.#inBackground(tier.store(key, bytes, this.#guard));
    }
    return bytes;
  }

  #moveUp(key: string, tier: Tier | undefined, bytes: number): void {
    if (tier !== undefined && kindOf(key) === 'pack' && this.#moves.isWorth(key, tier, bytes)) {
      this.#inBackground(this.#bringer.bring(packOfKey(key) ?? '', tier).stored);
    }
  }

  /** A reader found the copy damaged. */
  async #forget(key: string): Promise<void> {
    this.#bringer.distrust(packOfKey(key) ?? '');
    this.#log.warn({ key }, 'damaged copies are dropped: the store is read');
    await this.#dropCopies(key);
  }

  async #dropCopies(key: string): Promise<void> {
    this.#guard.forget(packOfKey(key) ?? '');
    await Promise.all(this.tiers.map((tier) => tier.drop(key)));
  }

  #tierOf(name: TierName): Tier | undefined {
    return this.tiers.find((tier) => tier.name === name);
  }

  #lowest(): Tier | undefined {
    return this.tiers.at(-1);
  }

  #inBackground(work: Promise<unknown>): void {
    const done = work
      .catch((error: unknown) => this.#log.warn({ reason: messageOf(error) }, 'work on a tier failed'))
      .finally(() => this.#background.delete(done));
    this.#background.add(done);
  }
}

/** A view: several readers share the bytes, and nobody writes into what a backend gave. */
function part(bytes: Uint8Array, range: ByteRange | undefined): Uint8Array {
  if (range === undefined) {
    return bytes;
  }
  return 'last' in range
    ? bytes.subarray(Math.max(0, bytes.length - range.last))
    : bytes.subarray(range.offset, range.offset + range.bytes);
}

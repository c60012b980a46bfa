/*
 * One tier: a directory that holds a part of the store's objects, under the same keys, within a budget of bytes. What
 * lies there is the truth: a new process reads the directory, and the time of a file says when it was last used. One
 * process at a time may use the directory.
 *
 * A tier never fails an operation. A disk that is full, slow to the point of an error or gone means that an object is
 * not taken in, or is read from the next place, with a warning in the log.
 */
import { utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import type { TierInfo } from '../../core/contract/tiers.ts';
import type { Logger } from '../../core/op.ts';
import type { Backend, ByteRange, GetOptions } from '../backend/backend.ts';
import { packKey } from '../keys.ts';
import { Holds, type Pins } from './pins.ts';
import type { Reservation, Stock, Unit } from './stock.ts';
import { checkpointOfUnit, packOfUnit } from './units.ts';

export type TierName = 'ram' | 'nvme';

export interface TierSettings {
  readonly name: TierName;
  readonly dir: string;
  /** where the process reaches the directory, when not by its path */
  readonly path?: string;
  readonly budgetBytes: number;
}

/** Asked before each eviction. False also when nobody can tell. */
export interface EvictionGuard {
  /** false: the tier has the only copy */
  mayEvictPack(tier: Tier, pack: string, bytes: number): Promise<boolean>;
  /** manifest and file lists of a checkpoint */
  mayEvictCheckpoint(tier: Tier, checkpointId: string): Promise<boolean>;
}

/** Evictions in the background begin above the first share of the budget and end below the second. */
const HIGH_WATER = 0.95;
const LOW_WATER = 0.9;
/** The time of last use is written down at most this often. */
const TOUCH_MS = 60_000;
/** A disk that refused an object is left alone for so long. */
const REST_MS = 30_000;

export interface TierParts {
  readonly settings: TierSettings;
  readonly place: Backend;
  readonly stock: Stock;
  readonly pins: Pins;
  readonly log: Logger;
}

export class Tier {
  readonly name: TierName;
  readonly dir: string;
  readonly budgetBytes: number;
  readonly pins: Pins;
  readonly holds = new Holds();
  readonly #place: Backend;
  readonly #path: string;
  readonly #stock: Stock;
  readonly #log: Logger;
  /** key → when the time of its file was set last */
  readonly #touchedMs = new Map<string, number>();
  #restsUntilMs = 0;
  /** room is made for one caller at a time */
  #turn: Promise<unknown> = Promise.resolve();

  constructor({ settings, place, stock, pins, log }: TierParts) {
    this.name = settings.name;
    this.dir = settings.dir;
    this.#path = settings.path ?? settings.dir;
    this.budgetBytes = settings.budgetBytes;
    this.pins = pins;
    this.#place = place;
    this.#stock = stock;
    this.#log = log;
  }

  /** Size of the object; undefined when it is not here. The key must have a kind. */
  bytesOf(key: string): number | undefined {
    return this.#stock.bytesOf(key);
  }

  /** Packs that are here, with their sizes. */
  packs(): Map<string, number> {
    return this.#stock.packs();
  }

  /** Checkpoints of which a manifest or a file list is here. */
  checkpoints(): string[] {
    return this.#stock.units().flatMap(({ id }) => checkpointOfUnit(id) ?? []);
  }

  /** Reads an object. One that is gone, or not as long as it was, is dropped. @throws only the signal's reason */
  async read(key: string, options: GetOptions = {}): Promise<Uint8Array | undefined> {
    const expected = this.bytesOf(key);
    if (expected === undefined) {
      return undefined;
    }
    try {
      const bytes = await this.#place.get(key, options);
      if (bytes?.length === lengthOf(expected, options.range)) {
        this.#touch(key);
        return bytes;
      }
      this.#log.warn({ tier: this.name, key, expected, found: bytes?.length }, 'damaged object dropped from the tier');
    } catch (error) {
      options.signal?.throwIfAborted();
      this.#log.warn({ tier: this.name, key, reason: messageOf(error) }, 'tier not readable: the next place is read');
      return undefined;
    }
    await this.drop(key);
    return undefined;
  }

  /**
   * Makes room for an object before its bytes are fetched or written.
   * @returns undefined when it cannot be had: larger than the budget, or all the rest is pinned, held or the only copy,
   *   or the disk refused an object a moment ago
   */
  async reserve(bytes: number, guard: EvictionGuard): Promise<Reservation | undefined> {
    if (this.#restsUntilMs > Date.now()) {
      return undefined;
    }
    // Where there is room already nobody waits for the evictions of others.
    if (this.#stock.takenBytes + bytes <= this.budgetBytes) {
      return this.#stock.reserve(bytes);
    }
    return this.#alone(async () => {
      const isRoom = bytes <= this.budgetBytes && (await this.#evictUntil(this.budgetBytes - bytes, guard));
      return isRoom ? this.#stock.reserve(bytes) : undefined;
    });
  }

  /** Takes the object in; false when it could not. Crash: the whole object or nothing. */
  async store(key: string, bytes: Uint8Array, guard: EvictionGuard): Promise<boolean> {
    if (this.bytesOf(key) === bytes.length) {
      this.#touch(key);
      return true;
    }
    const room = await this.reserve(bytes.length, guard);
    return room !== undefined && this.storeInto(room, key, bytes);
  }

  /** As `store`, into room of the object's size, which is used up whatever happens. */
  async storeInto(room: Reservation, key: string, bytes: Uint8Array): Promise<boolean> {
    try {
      await this.#place.put(key, bytes);
      this.#stock.add(key, bytes.length);
      this.#touchedMs.set(key, Date.now());
      return true;
    } catch (error) {
      this.#restsUntilMs = Date.now() + REST_MS;
      this.#log.warn({ tier: this.name, key, reason: messageOf(error) }, 'the tier takes nothing for half a minute');
      return false;
    } finally {
      room.release();
    }
  }

  /** Removes one object: it is damaged, or gone from the store. */
  async drop(key: string): Promise<void> {
    if (!this.#stock.remove(key)) {
      return;
    }
    this.#touchedMs.delete(key);
    try {
      await this.#place.delete(key);
    } catch (error) {
      // It is forgotten in any case; a file that stays is found again by the next process.
      this.#log.warn({ tier: this.name, key, reason: messageOf(error) }, 'object not removed from the tier');
    }
  }

  /** Removes manifest and file lists of a checkpoint. */
  async dropCheckpoint(checkpointId: string): Promise<void> {
    const unit = this.#stock.units().find(({ id }) => checkpointOfUnit(id) === checkpointId);
    for (const key of unit?.objects.keys() ?? []) {
      await this.drop(key);
    }
  }

  /** Evicts to the low-water mark when the high-water mark is passed, as after a start with a smaller budget. */
  async trim(guard: EvictionGuard): Promise<void> {
    if (this.#stock.usedBytes > HIGH_WATER * this.budgetBytes) {
      await this.#alone(() => this.#evictUntil(LOW_WATER * this.budgetBytes, guard));
    }
  }

  state(): TierInfo {
    const units = this.#stock.units();
    const pinned = units.filter((unit) => this.#isPinned(unit));
    const pins = this.pins.list();
    return {
      tier: this.name,
      dir: this.dir,
      budgetBytes: this.budgetBytes,
      usedBytes: this.#stock.usedBytes,
      pinnedBytes: pinned.reduce((sum, { bytes }) => sum + bytes, 0),
      packs: this.packs().size,
      objects: units.reduce((sum, { objects }) => sum + objects.size, 0),
      pins: pins.map(({ checkpointId, expiresAt }) => ({
        checkpointId,
        ...(expiresAt === undefined ? {} : { expiresAt }),
      })),
    };
  }

  /** @returns false when what may go is not enough */
  async #evictUntil(limitBytes: number, guard: EvictionGuard): Promise<boolean> {
    const isEnough = (): boolean => this.#stock.takenBytes <= limitBytes;
    const units = isEnough() ? [] : this.#stock.units();
    for (const unit of units) {
      if (isEnough()) {
        break;
      }
      // Asking takes a while: somebody may hold or pin it by then.
      if (!this.#isKept(unit) && (await this.#mayEvict(unit, guard)) && !this.#isKept(unit)) {
        // The pack before its index: an index without its pack is harmless.
        for (const key of [...unit.objects.keys()].sort().reverse()) {
          await this.drop(key);
        }
      }
    }
    return isEnough();
  }

  async #mayEvict({ id, objects }: Unit, guard: EvictionGuard): Promise<boolean> {
    const pack = packOfUnit(id);
    if (pack === undefined) {
      return guard.mayEvictCheckpoint(this, checkpointOfUnit(id) ?? '');
    }
    const bytes = objects.get(packKey(pack));
    return bytes === undefined || guard.mayEvictPack(this, pack, bytes);
  }

  #isKept(unit: Unit): boolean {
    return this.#isPinned(unit) || this.holds.has(packOfUnit(unit.id) ?? '');
  }

  #isPinned({ id }: Unit): boolean {
    return this.pins.has(packOfUnit(id) ?? '');
  }

  async #alone<Result>(act: () => Promise<Result>): Promise<Result> {
    const turn = this.#turn.then(act);
    // The next one's turn comes whatever becomes of this one; the error is this caller's.
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  #touch(key: string): void {
    this.#stock.touch(key);
    const nowMs = Date.now();
    if (nowMs - (this.#touchedMs.get(key) ?? 0) > TOUCH_MS) {
      this.#touchedMs.set(key, nowMs);
      const time = new Date(nowMs);
      // Lost, or the file is gone: the order of evictions after a restart is a little off.
      utimes(join(this.#path, key), time, time).catch(() => undefined);
    }
  }
}

function lengthOf(bytes: number, range: ByteRange | undefined): number {
  if (range === undefined) {
    return bytes;
  }
  if ('last' in range) {
    return Math.min(bytes, range.last);
  }
  return Math.max(0, Math.min(bytes, range.offset + range.bytes) - range.offset);
}

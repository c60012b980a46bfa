/* What lies in a tier and in which order it was used: bookkeeping only, no disk. */
import { packKey } from '../keys.ts';
import { packOfUnit, unitOf } from './units.ts';

export interface Unit {
  readonly id: string;
  /** key → bytes */
  readonly objects: ReadonlyMap<string, number>;
  readonly bytes: number;
}

/** Room that was made. */
export interface Reservation {
  /** Gives back what is left of it. */
  release(): void;
}

interface Entry extends Unit {
  readonly objects: Map<string, number>;
  bytes: number;
}

export class Stock {
  /** least recently used first */
  readonly #units = new Map<string, Entry>();
  #usedBytes = 0;
  #reservedBytes = 0;

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** used or promised */
  get takenBytes(): number {
    return this.#usedBytes + this.#reservedBytes;
  }

  /** The caller has made sure that there is room. */
  reserve(bytes: number): Reservation {
    this.#reservedBytes += bytes;
    let left = bytes;
    return {
      release: () => {
        this.#reservedBytes -= left;
        left = 0;
      },
    };
  }

  /** Size of the object; undefined when it is not here. The key must have a kind. */
  bytesOf(key: string): number | undefined {
    return this.#units.get(unitOf(key))?.objects.get(key);
  }

  /** Adds or replaces an object; its unit is the most recently used now. */
  add(key: string, bytes: number): void {
    const id = unitOf(key);
    const unit = this.#units.get(id) ?? { id, objects: new Map<string, number>(), bytes: 0 };
    const change = bytes - (unit.objects.get(key) ?? 0);
    unit.objects.set(key, bytes);
    unit.bytes += change;
    this.#usedBytes += change;
    this.#units.set(id, unit);
    this.touch(key);
  }

  touch(key: string): void {
    const unit = this.#units.get(unitOf(key));
    if (unit !== undefined) {
      this.#units.delete(unit.id);
      this.#units.set(unit.id, unit);
    }
  }

  /** @returns false when it was not here */
  remove(key: string): boolean {
    const unit = this.#units.get(unitOf(key));
    const bytes = unit?.objects.get(key);
    if (unit === undefined || bytes === undefined) {
      return false;
    }
    unit.objects.delete(key);
    unit.bytes -= bytes;
    this.#usedBytes -= bytes;
    if (unit.objects.size === 0) {
      this.#units.delete(unit.id);
    }
    return true;
  }

  /** Least recently used first; may be changed while the result is worked off. */
  units(): Unit[] {
    return [...this.#units.values()];
  }

  /** Packs that are here, with their sizes; an index without its pack does not count. */
  packs(): Map<string, number> {
    const packs = new Map<string, number>();
    for (const { id, objects } of this.#units.values()) {
      const pack = packOfUnit(id);
      const bytes = pack === undefined ? undefined : objects.get(packKey(pack));
      if (pack !== undefined && bytes !== undefined) {
        packs.set(pack, bytes);
      }
    }
    return packs;
  }
}

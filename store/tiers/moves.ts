/* Which packs are worth moving one tier up, judged by what was read of them. */
import type { Tier } from './tier.ts';

export interface MovePolicy {
  /** so much of a pack must have been read: not for single chunks, or the index at its end */
  readonly minBytes: number;
  /** it must have been in the lower tier for so long: what one restore reads once moves one step only */
  readonly minAgeMs: number;
}

const POLICY: MovePolicy = { minBytes: 2 ** 20, minAgeMs: 60_000 };
/** For how long a pack that found no room is read past the tier. */
const NO_ROOM_MS = 30_000;
/** Packs of which something is remembered; forgetting it costs speed only. */
const MAX_REMEMBERED = 10_000;

export class Moves {
  readonly #policy: MovePolicy;
  /** tier and key → bytes that were read from below it */
  readonly #asked = new Map<string, number>();
  readonly #noRoomUntilMs = new Map<string, number>();
  /** key → when it came to a tier, of late */
  readonly #cameMs = new Map<string, number>();

  constructor(policy: Partial<MovePolicy> = {}) {
    this.#policy = { ...POLICY, ...policy };
  }

  came(key: string): void {
    remember(this.#cameMs, key, Date.now());
  }

  foundNoRoom(key: string, tier: Tier): void {
    remember(this.#noRoomUntilMs, nameOf(key, tier), Date.now() + NO_ROOM_MS);
  }

  /** Is a pack worth bringing to `tier`, now that `bytes` more of it are read from below? */
  isWorth(key: string, tier: Tier, bytes: number): boolean {
    const name = nameOf(key, tier);
    const asked = (this.#asked.get(name) ?? 0) + bytes;
    const isYoung = Date.now() - (this.#cameMs.get(key) ?? 0) < this.#policy.minAgeMs;
    if (isYoung || (this.#noRoomUntilMs.get(name) ?? 0) > Date.now()) {
      return false;
    }
    if (asked < this.#policy.minBytes) {
      remember(this.#asked, name, asked);
      return false;
    }
    this.#asked.delete(name);
    this.#noRoomUntilMs.delete(name);
    return true;
  }
}

function nameOf(key: string, tier: Tier): string {
  return `${tier.name}:${key}`;
}

function remember(map: Map<string, number>, name: string, value: number): void {
  if (map.size >= MAX_REMEMBERED) {
    map.clear();
  }
  map.set(name, value);
}

/*
 * Pins of a tier: `pins/<checkpoint id>.json` beside the objects, so that they outlive the process. A pin names the
 * packs that it keeps, not only the checkpoint: whether a pack may go must be known without asking the store.
 */
import * as z from 'zod';
import { packId } from '../../core/checkpoint/manifest.ts';
import { checkpointId } from '../../core/contract/common.ts';
import { parseCheckpointId } from '../../core/ids.ts';
import type { Backend } from '../backend/backend.ts';

const PREFIX = 'pins/';

const content = z.strictObject({
  checkpointId,
  packs: z.array(packId),
  /** ISO time; absent: until it is unpinned */
  expiresAt: z.iso.datetime().optional(),
});
export type Pin = z.output<typeof content>;

export class Pins {
  readonly #place: Backend;
  readonly #pins: Map<string, { readonly pin: Pin; readonly packs: ReadonlySet<string> }>;

  private constructor(place: Backend, pins: readonly Pin[]) {
    this.#place = place;
    this.#pins = new Map(pins.map((pin) => [pin.checkpointId, { pin, packs: new Set(pin.packs) }]));
  }

  /** A file that is no pin is left alone and pins nothing. */
  static async open(place: Backend): Promise<Pins> {
    const pins: Pin[] = [];
    for await (const { key } of place.list(PREFIX)) {
      const pin = content.safeParse(readJson(await place.get(key)));
      if (pin.success) {
        pins.push(pin.data);
      }
    }
    return new Pins(place, pins);
  }

  /** Those that hold, in the order of their ids. */
  list(): Pin[] {
    return [...this.#pins.values()]
      .map(({ pin }) => pin)
      .filter(holds)
      .sort((left, right) => (left.checkpointId < right.checkpointId ? -1 : 1));
  }

  has(pack: string): boolean {
    for (const { pin, packs } of this.#pins.values()) {
      if (packs.has(pack) && holds(pin)) {
        return true;
      }
    }
    return false;
  }

  /** Replaces the pin of the same checkpoint. */
  async add(pin: Pin): Promise<void> {
    await this.#place.put(keyOf(pin.checkpointId), Buffer.from(JSON.stringify(pin)));
    this.#pins.set(pin.checkpointId, { pin, packs: new Set(pin.packs) });
  }

  /** @returns false when there was none */
  async remove(id: string): Promise<boolean> {
    const had = this.#pins.delete(id);
    await this.#place.delete(keyOf(id));
    return had;
  }

  async removeExpired(): Promise<void> {
    for (const { pin } of this.#pins.values()) {
      if (!holds(pin)) {
        await this.remove(pin.checkpointId);
      }
    }
  }
}

/** What running operations need: as a pin, but it ends with the process. */
export class Holds {
  readonly #held = new Map<string, number>();

  has(pack: string): boolean {
    return this.#held.has(pack);
  }

  /** @returns ends the hold */
  add(packs: readonly string[]): () => void {
    for (const pack of packs) {
      this.#held.set(pack, (this.#held.get(pack) ?? 0) + 1);
    }
    return () => {
      for (const pack of packs) {
        const left = (this.#held.get(pack) ?? 1) - 1;
        if (left === 0) {
          this.#held.delete(pack);
        } else {
          this.#held.set(pack, left);
        }
      }
    };
  }
}

function keyOf(id: string): string {
  return `${PREFIX}${parseCheckpointId(id)}.json`;
}

function holds(pin: Pin): boolean {
  return pin.expiresAt === undefined || Date.parse(pin.expiresAt) > Date.now();
}

function readJson(bytes: Uint8Array | undefined): unknown {
  try {
    return bytes === undefined ? undefined : JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    if (error instanceof SyntaxError) {
      return undefined;
    }
    throw error;
  }
}

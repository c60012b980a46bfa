/*
 * Brings packs into a tier: from another tier of the node, from a peer, else from the store. However many readers want
 * a pack, it comes once; at most `PARALLEL_PACKS` are in memory.
 */
import { isKybernateError, KybernateError, messageOf } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import { packKey } from '../keys.ts';
import { forEachLimit } from '../limit.ts';
import { checkPack } from './check-pack.ts';
import type { CopyGuard } from './copy-guard.ts';
import type { Reservation } from './stock.ts';
import type { Tier } from './tier.ts';

const PARALLEL_PACKS = 3;
/** A pack comes from the store in parts, several at a time: one connection does not fill a network. */
const PART_BYTES = 8 * 2 ** 20;
const PARALLEL_PARTS = 4;
/** How long a peer may take to say whether it has a pack. */
const PEER_ANSWER_MS = 2000;
/** A peer that failed is left alone for so long. */
const PEER_REST_MS = 30_000;

export interface Peer {
  readonly node: string;
  readonly backend: Backend;
}

export interface BringerParts {
  readonly store: Backend;
  /** fastest first */
  readonly tiers: readonly Tier[];
  readonly peers: readonly Peer[];
  readonly guard: CopyGuard;
  readonly log: Logger;
}

export interface Brought {
  readonly bytes: Uint8Array;
  /** name of a tier, `peer:<node>` or `store` */
  readonly from: string;
}

/** A pack on its way. */
export interface Coming {
  /** its bytes, as soon as they are here; undefined: the tier has no room for it, or there is no such pack */
  readonly arrived: Promise<Brought | undefined>;
  /** it lies in the tier */
  readonly stored: Promise<boolean>;
}

export class Bringer {
  readonly #parts: BringerParts;
  readonly #coming = new Map<string, Coming>();
  readonly #resting = new Map<string, number>();
  /** packs of which a copy was damaged: they come from the store itself */
  readonly #distrusted = new Set<string>();
  readonly #waiting: Array<() => void> = [];
  readonly #closed = new AbortController();
  #busy = 0;

  constructor(parts: BringerParts) {
    this.#parts = parts;
  }

  distrust(pack: string): void {
    this.#distrusted.add(pack);
  }

  /**
   * Begins to bring a pack, or joins the one who does. Both promises reject with StorageUnavailable or StorageDenied when
   * the store fails, with CheckpointCorrupt when it lacks the pack; nobody has to wait for `arrived`.
   * @param bytes its size, where the caller knows it
   */
  bring(pack: string, tier: Tier, bytes?: number): Coming {
    const name = `${tier.name}:${pack}`;
    const running = this.#coming.get(name);
    if (running !== undefined) {
      return running;
    }
    const arrival = Promise.withResolvers<Brought | undefined>();
    const stored = this.#run(pack, tier, bytes, arrival.resolve).finally(() => this.#coming.delete(name));
    stored.then(() => arrival.resolve(undefined), arrival.reject);
    arrival.promise.catch(() => undefined);
    const coming = { arrived: arrival.promise, stored };
    this.#coming.set(name, coming);
    return coming;
  }

  /** Ends what is under way. */
  async close(): Promise<void> {
    this.#closed.abort(new KybernateError('StorageUnavailable', 'the tiers were closed'));
    await Promise.allSettled([...this.#coming.values()].map(({ stored }) => stored));
  }

  async #run(
    pack: string,
    tier: Tier,
    knownBytes: number | undefined,
    arrived: (brought: Brought) => void,
  ): Promise<boolean> {
    const leave = await this.#enter();
    let room: Reservation | undefined;
    try {
      const key = packKey(pack);
      const bytes = knownBytes ?? (await this.#sizeOf(key, tier));
      room = bytes === undefined ? undefined : await tier.reserve(bytes, this.#parts.guard);
      if (bytes === undefined || room === undefined) {
        return false;
      }
      const brought = await this.#fetch(pack, tier, bytes);
      arrived(brought);
      return await tier.storeInto(room, key, brought.bytes);
    } finally {
      room?.release();
      leave();
    }
  }

  async #enter(): Promise<() => void> {
    while (this.#busy >= PARALLEL_PACKS) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#busy += 1;
    return () => {
      this.#busy -= 1;
      this.#waiting.shift()?.();
    };
  }

  async #sizeOf(key: string, tier: Tier): Promise<number | undefined> {
    const here = this.#parts.tiers.find((other) => other !== tier && other.bytesOf(key) !== undefined)?.bytesOf(key);
    return here ?? (await this.#parts.store.head(key, { signal: this.#closed.signal }))?.bytes;
  }

  async #fetch(pack: string, tier: Tier, bytes: number): Promise<Brought> {
    const key = packKey(pack);
    const { signal } = this.#closed;
    if (!this.#distrusted.has(pack)) {
      for (const other of this.#parts.tiers) {
        if (other !== tier && other.bytesOf(key) === bytes) {
          const copy = await other.read(key, { signal });
          if (copy !== undefined) {
            return { bytes: copy, from: other.name };
          }
        }
      }
      const copy = await this.#fromPeers(pack, bytes);
      if (copy !== undefined) {
        return copy;
      }
    }
    const whole = await fetchInParts(this.#parts.store, key, bytes, signal);
    if (whole === undefined) {
      const place = this.#parts.store.url;
      throw new KybernateError('CheckpointCorrupt', `pack ${pack} is missing in ${place} or not ${bytes} bytes long`);
    }
    this.#parts.guard.noteStored(pack);
    return { bytes: whole, from: 'store' };
  }

  /** From the first peer that says it has the pack, else the next; a peer never makes the operation fail. */
  async #fromPeers(pack: string, bytes: number): Promise<Brought | undefined> {
    const peers = this.#parts.peers.filter(({ node }) => (this.#resting.get(node) ?? 0) <= Date.now());
    const asked = peers.map(async (peer) => ((await this.#ask(peer, pack, bytes)) ? peer : undefined));
    while (asked.length > 0) {
      const { peer, index } = await Promise.race(
        asked.map(async (one, number) => ({ peer: await one, index: number })),
      );
      void asked.splice(index, 1);
      const copy = peer === undefined ? undefined : await this.#fromPeer(peer, pack, bytes);
      if (copy !== undefined) {
        return copy;
      }
    }
    return undefined;
  }

  async #ask(peer: Peer, pack: string, bytes: number): Promise<boolean> {
    const signal = AbortSignal.any([this.#closed.signal, AbortSignal.timeout(PEER_ANSWER_MS)]);
    try {
      return (await peer.backend.head(packKey(pack), { signal }))?.bytes === bytes;
    } catch (error) {
      this.#rest(peer, error);
      return false;
    }
  }

  async #fromPeer(peer: Peer, pack: string, bytes: number): Promise<Brought | undefined> {
    try {
      const copy = await fetchInParts(peer.backend, packKey(pack), bytes, this.#closed.signal);
      if (copy !== undefined) {
        await checkPack(pack, copy, this.#closed.signal);
        return { bytes: copy, from: `peer:${peer.node}` };
      }
    } catch (error) {
      if (isKybernateError(error, 'CheckpointCorrupt')) {
        this.#parts.log.warn({ peer: peer.node, pack, reason: error.message }, 'damaged pack of a peer refused');
      } else {
        this.#rest(peer, error);
      }
    }
    return undefined;
  }

  #rest(peer: Peer, error: unknown): void {
    if (!this.#closed.signal.aborted) {
      this.#parts.log.warn({ peer: peer.node, reason: messageOf(error) }, 'peer left alone for half a minute');
      this.#resting.set(peer.node, Date.now() + PEER_REST_MS);
    }
  }
}

/** @returns undefined when it is gone, or not as long as it was said to be */
async function fetchInParts(
  place: Backend,
  key: string,
  bytes: number,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  const whole = new Uint8Array(bytes);
  const offsets = Array.from({ length: Math.ceil(bytes / PART_BYTES) }, (_, index) => index * PART_BYTES);
  let got = 0;
  await forEachLimit(offsets, PARALLEL_PARTS, signal, async (offset) => {
    const part = await place.get(key, { signal, range: { offset, bytes: Math.min(PART_BYTES, bytes - offset) } });
    whole.set(part ?? [], offset);
    got += part?.length ?? 0;
  });
  return got === bytes ? whole : undefined;
}

/** Stops waiting, not what is waited for. */
export function orAborted<Result>(promise: Promise<Result>, signal: AbortSignal | undefined): Promise<Result> {
  if (signal === undefined) {
    return promise;
  }
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error);
    if (signal.aborted) {
      abort();
    }
    signal.addEventListener('abort', abort, { once: true });
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

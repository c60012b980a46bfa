/*
 * Fills packs and sends them, a few at a time: one pack is filled while others are under way. While there is no memory
 * for another, `add` waits.
 */
import { randomBytes } from 'node:crypto';
import { encodePackTail, MAX_CHUNK_BYTES, PACK_ENTRY_BYTES, PACK_HEADER, type PackEntry } from '../core/pack/pack.ts';
import type { EncodedChunk } from './codec.ts';
import { digestOf } from './digest.ts';
import { holdMemory, type HeldMemory } from './transfer-memory.ts';

/** Bodies of a pack. It takes three requests (itself, its index, the look before the publication): 129 for a GiB. */
export const PACK_BYTES = 24 * 2 ** 20;
/** Bounds the index, which comes on top: chunks that shrink to almost nothing fill a pack by their number. */
const MAX_ENTRIES = 8192;
/** At once, however small they are. */
const SENDING = 2;

export interface SealedPack {
  readonly id: string;
  readonly bytes: Uint8Array;
  /** index and footer: the end of `bytes` */
  readonly tail: Uint8Array;
  readonly entries: readonly PackEntry[];
}

export interface PackWriterOptions {
  readonly signal: AbortSignal;
  readonly packBytes?: number | undefined;
  readonly dataKey?: string | undefined;
}

export class PackWriter {
  readonly #send: (pack: SealedPack) => Promise<void>;
  readonly #packBytes: number;
  readonly #running = new Set<Promise<void>>();
  readonly #signal: AbortSignal;
  #memory: HeldMemory | undefined;
  #entries: PackEntry[] = [];
  #used = 0;
  readonly #dataKey: string | undefined;
  #failure: { readonly error: unknown } | undefined;

  /**
   * @param send stores one pack; its bytes are valid until it returns
   * @param options.signal ends the waiting for memory
   * @param options.dataKey id of the key that the chunks are sealed with; undefined: they are plain
   */
  constructor(send: (pack: SealedPack) => Promise<void>, options: PackWriterOptions) {
    this.#send = send;
    this.#signal = options.signal;
    this.#packBytes = options.packBytes ?? PACK_BYTES;
    this.#dataKey = options.dataKey;
  }

  /** Adds a chunk. Throws what a send under way has thrown. */
  async add(digest: Uint8Array, chunk: EncodedChunk, rawBytes: number): Promise<void> {
    if (this.#used + chunk.bytes.length > this.#packBytes || this.#entries.length === MAX_ENTRIES) {
      this.#seal();
    }
    this.#throwFailure();
    this.#memory ??= await this.#takeMemory();
    const { bytes } = this.#memory;
    if (this.#used === 0) {
      bytes.set(PACK_HEADER);
      this.#used = PACK_HEADER.length;
    }
    this.#entries.push({
      digest,
      offset: this.#used,
      storedBytes: chunk.bytes.length,
      rawBytes,
      codec: chunk.codec,
    });
    bytes.set(chunk.bytes, this.#used);
    this.#used += chunk.bytes.length;
  }

  /** Sends what is left and waits until every pack is stored. */
  async finish(): Promise<void> {
    this.#seal();
    await this.settle();
    this.#throwFailure();
  }

  /** Waits for the sends under way, whatever becomes of them, and gives the memory back. */
  async settle(): Promise<void> {
    await Promise.all(this.#running);
    this.#memory?.release();
    this.#memory = undefined;
  }

  #seal(): void {
    const memory = this.#memory;
    if (memory === undefined || this.#entries.length === 0) {
      return;
    }
    const entries = this.#entries;
    const tail = encodePackTail(entries, digestOf, this.#dataKey);
    memory.bytes.set(tail, this.#used);
    const bytes = memory.bytes.subarray(0, this.#used + tail.length);
    // Random, not a digest of the content: an id that was deleted, or is about to be, is never used again.
    const id = randomBytes(16).toString('hex');
    this.#memory = undefined;
    this.#entries = [];
    this.#used = 0;
    const sending = this.#send({ id, bytes, tail, entries })
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => {
        this.#running.delete(sending);
        memory.release();
      });
    this.#running.add(sending);
  }

  async #takeMemory(): Promise<HeldMemory> {
    // Chunks are at most MAX_CHUNK_BYTES; the first one may be larger than a (test's) small pack.
    const length = this.#packBytes + MAX_CHUNK_BYTES + (MAX_ENTRIES + 2) * PACK_ENTRY_BYTES;
    while (this.#running.size >= SENDING) {
      await Promise.race(this.#running);
    }
    const memory = await holdMemory(length, this.#signal);
    if (this.#failure !== undefined) {
      memory.release();
    }
    this.#throwFailure();
    return memory;
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) {
      throw this.#failure.error;
    }
  }
}

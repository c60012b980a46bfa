/*
 * Fills packs and sends them, a few at a time, in memory of a fixed size: one pack is filled while others are under way;
 * when all buffers are in use, `add` waits.
 */
import { randomBytes } from 'node:crypto';
import { encodePackTail, MAX_CHUNK_BYTES, PACK_ENTRY_BYTES, PACK_HEADER, type PackEntry } from '../core/pack/pack.ts';
import type { EncodedChunk } from './codec.ts';
import { digestOf } from './digest.ts';

/** Bodies of a pack. It takes three requests (itself, its index, the look before the publication): 129 for a GiB. */
export const PACK_BYTES = 24 * 2 ** 20;
/** Bounds the index, which comes on top: chunks that shrink to almost nothing fill a pack by their number. */
const MAX_ENTRIES = 8192;
const BUFFERS = 3;

export interface SealedPack {
  readonly id: string;
  readonly bytes: Uint8Array;
  /** index and footer: the end of `bytes` */
  readonly tail: Uint8Array;
  readonly entries: readonly PackEntry[];
}

export class PackWriter {
  readonly #send: (pack: SealedPack) => Promise<void>;
  readonly #packBytes: number;
  readonly #free: Array<Buffer<ArrayBuffer>> = [];
  readonly #running = new Set<Promise<void>>();
  #buffers = 0;
  #buffer: Buffer<ArrayBuffer> | undefined;
  #entries: PackEntry[] = [];
  #used = 0;
  readonly #dataKey: string | undefined;
  #failure: { readonly error: unknown } | undefined;

  /**
   * @param send stores one pack; its bytes are valid until it returns
   * @param dataKey id of the key that the chunks are sealed with; undefined: they are plain
   */
  constructor(send: (pack: SealedPack) => Promise<void>, packBytes = PACK_BYTES, dataKey?: string) {
    this.#dataKey = dataKey;
    this.#send = send;
    this.#packBytes = packBytes;
  }

  /** Adds a chunk. Throws what a send under way has thrown. */
  async add(digest: Uint8Array, chunk: EncodedChunk, rawBytes: number): Promise<void> {
    if (this.#used + chunk.bytes.length > this.#packBytes || this.#entries.length === MAX_ENTRIES) {
      this.#seal();
    }
    this.#throwFailure();
    this.#buffer ??= await this.#takeBuffer();
    if (this.#used === 0) {
      this.#buffer.set(PACK_HEADER);
      this.#used = PACK_HEADER.length;
    }
    this.#entries.push({
      digest,
      offset: this.#used,
      storedBytes: chunk.bytes.length,
      rawBytes,
      codec: chunk.codec,
    });
    this.#buffer.set(chunk.bytes, this.#used);
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
    for (const { buffer } of this.#free.splice(0)) {
      // At once: left to the collector, the buffers of the next upload would come on top of these.
      buffer.transfer(0);
      this.#buffers -= 1;
    }
  }

  #seal(): void {
    const buffer = this.#buffer;
    if (buffer === undefined || this.#entries.length === 0) {
      return;
    }
    const entries = this.#entries;
    const tail = encodePackTail(entries, digestOf, this.#dataKey);
    buffer.set(tail, this.#used);
    const bytes = buffer.subarray(0, this.#used + tail.length);
    // Random, not a digest of the content: an id that was deleted, or is about to be, is never used again.
    const id = randomBytes(16).toString('hex');
    this.#buffer = undefined;
    this.#entries = [];
    this.#used = 0;
    const sending = this.#send({ id, bytes, tail, entries })
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => {
        this.#running.delete(sending);
        this.#free.push(buffer);
      });
    this.#running.add(sending);
  }

  async #takeBuffer(): Promise<Buffer<ArrayBuffer>> {
    for (;;) {
      this.#throwFailure();
      const free = this.#free.pop();
      if (free !== undefined) {
        return free;
      }
      if (this.#buffers < BUFFERS) {
        this.#buffers += 1;
        // Chunks are at most MAX_CHUNK_BYTES; the first one may be larger than a (test's) small pack.
        return Buffer.allocUnsafeSlow(this.#packBytes + MAX_CHUNK_BYTES + (MAX_ENTRIES + 2) * PACK_ENTRY_BYTES);
      }
      await Promise.race(this.#running);
    }
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) {
      throw this.#failure.error;
    }
  }
}

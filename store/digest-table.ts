/*
 * Which of millions of digests, or other random keys of one length, have been seen, and their number. A Map with string
 * keys takes more than 150 bytes a digest; here it is 32 and two slots of 4. Open addressing; digests are uniformly
 * distributed already, so their first four bytes are the hash.
 */
import { DIGEST_BYTES } from '../core/checkpoint/manifest.ts';

export class DigestTable {
  readonly #keyBytes: number;
  #slots: Int32Array<ArrayBuffer>;
  #digests: Uint8Array<ArrayBuffer>;
  #count = 0;

  /** @param expected keys for which there is room without growing, which takes twice the memory for a moment */
  constructor(keyBytes = DIGEST_BYTES, expected = 0) {
    this.#keyBytes = keyBytes;
    this.#slots = new Int32Array(2 ** Math.max(10, Math.ceil(Math.log2(expected + 1)) + 1)).fill(-1);
    this.#digests = new Uint8Array(Math.max(512, expected) * keyBytes);
  }

  get count(): number {
    return this.#count;
  }

  /** The number of this digest, given in order of first sight from 0. */
  add(digest: Uint8Array): number {
    if (this.#count * 2 >= this.#slots.length) {
      this.#grow();
    }
    const slot = this.#slotOf(digest);
    const known = this.#slots[slot] ?? -1;
    if (known !== -1) {
      return known;
    }
    const start = this.#count * this.#keyBytes;
    if (start === this.#digests.length) {
      const digests = new Uint8Array(2 * start);
      digests.set(this.#digests);
      this.#digests = digests;
    }
    this.#digests.set(digest, start);
    this.#slots[slot] = this.#count;
    this.#count += 1;
    return this.#count - 1;
  }

  find(digest: Uint8Array): number | undefined {
    const known = this.#slots[this.#slotOf(digest)] ?? -1;
    return known === -1 ? undefined : known;
  }

  /** A view: do not change it. */
  digestAt(index: number): Uint8Array {
    return this.#digests.subarray(index * this.#keyBytes, (index + 1) * this.#keyBytes);
  }

  #slotOf(digest: Uint8Array): number {
    const mask = this.#slots.length - 1;
    let slot = firstWord(digest) & mask;
    for (;;) {
      const known = this.#slots[slot] ?? -1;
      if (known === -1 || this.#equals(known, digest)) {
        return slot;
      }
      slot = (slot + 1) & mask;
    }
  }

  #equals(index: number, digest: Uint8Array): boolean {
    const start = index * this.#keyBytes;
    for (let at = 0; at < this.#keyBytes; at += 1) {
      if (this.#digests[start + at] !== digest[at]) {
        return false;
      }
    }
    return true;
  }

  #grow(): void {
    this.#slots = new Int32Array(this.#slots.length * 2).fill(-1);
    for (let index = 0; index < this.#count; index += 1) {
      this.#slots[this.#slotOf(this.digestAt(index))] = index;
    }
  }
}

function firstWord(digest: Uint8Array): number {
  return ((digest[0] ?? 0) | ((digest[1] ?? 0) << 8) | ((digest[2] ?? 0) << 16) | ((digest[3] ?? 0) << 24)) >>> 0;
}

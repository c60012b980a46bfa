/*
 * The map of a sparse file in a tar archive (GNU.sparse 1.0): decimal numbers, each with its newline, before the data: how
 * many regions, then offset and length of each; padded to a block. GNU tar reads as much data as the map names, whatever
 * the size of the member is: with a map that names more it goes on in the content of the next member, and takes that for
 * headers.
 * Source: GNU tar manual, "Storing Sparse Files"; tar 1.34, src/sparse.c (pax_decode_header, sparse_extract_region).
 */
const BLOCK = 512;
const NEWLINE = 0x0a;
const ZERO = 0x30;
/** More are no safe integer. */
const MAX_DIGITS = 15;

export class SparseMap {
  #digits = '';
  #numbers = 0;
  /** numbers to come; the first one tells how many */
  #left = 1;
  #mapBytes = 0;
  #dataBlocks = 0;
  #isBad = false;

  /** Is what follows not looked at any more? */
  get isRead(): boolean {
    return this.#left === 0 || this.#isBad;
  }

  /** Takes the content of the member, from its begin, in pieces; what lies behind the map is not looked at. */
  push(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length && !this.isRead; at += 1) {
      const byte = bytes[at] ?? 0;
      this.#mapBytes += 1;
      if (byte === NEWLINE) {
        this.#take();
      } else if (byte >= ZERO && byte < ZERO + 10 && this.#digits.length < MAX_DIGITS) {
        this.#digits += String(byte - ZERO);
      } else {
        this.#isBad = true;
      }
    }
  }

  /** Does a member of this size hold the map and what it names, and nothing else? */
  fits(memberBytes: number): boolean {
    const blocks = Math.ceil(this.#mapBytes / BLOCK) + this.#dataBlocks;
    return !this.#isBad && this.#left === 0 && blocks === Math.ceil(memberBytes / BLOCK);
  }

  #take(): void {
    if (this.#digits === '') {
      this.#isBad = true;
      return;
    }
    const number = Number(this.#digits);
    this.#digits = '';
    this.#left += this.#numbers === 0 ? 2 * number - 1 : -1;
    // After the first one offsets and lengths take turns.
    this.#dataBlocks += this.#numbers > 0 && this.#numbers % 2 === 0 ? Math.ceil(number / BLOCK) : 0;
    this.#numbers += 1;
  }
}

/** Does a pax key belong to a sparse format whose map does not lie in the content? */
export function isOldSparse(key: string): boolean {
  return key.startsWith('GNU.sparse.') && !/^GNU\.sparse\.(?:major|minor|name|realsize)$/.test(key);
}

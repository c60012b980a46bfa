/* From the compact form of a manifest's chunks to single chunks, and back. */
import { chunkLengths, DIGEST_BYTES, type ManifestFile, type Segment } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';

/** A chunk in its file. */
export interface Chunk {
  /** number in the file, from 0 */
  readonly index: number;
  /** in the file */
  readonly offset: number;
  readonly bytes: number;
  /** absent: the chunk holds zeros only and is stored nowhere */
  readonly digest?: Uint8Array;
}

/**
 * The chunks of a file, in order.
 * @throws CheckpointCorrupt when the lists of a segment do not fit its length
 */
export function chunksOf(file: ManifestFile): Chunk[] {
  const chunks: Chunk[] = [];
  let offset = 0;
  for (const segment of file.segments) {
    const digests = Buffer.from(segment.digests, 'base64');
    const lengths = chunkLengths(segment);
    let zeroRun = 0;
    let used = 0;
    for (const [number, bytes] of lengths.entries()) {
      const zeroEnd = (segment.zero[zeroRun] ?? 0) + (segment.zero[zeroRun + 1] ?? 0);
      const isZero = zeroRun < segment.zero.length && number >= (segment.zero[zeroRun] ?? 0) && number < zeroEnd;
      const at = { index: chunks.length, offset, bytes };
      if (isZero) {
        chunks.push(at);
        zeroRun += number + 1 === zeroEnd ? 2 : 0;
      } else {
        chunks.push({ ...at, digest: digests.subarray(used, used + DIGEST_BYTES) });
        used += DIGEST_BYTES;
      }
      offset += bytes;
    }
    // A run that overlaps, is empty or lies behind the end is never finished: its pair is left over.
    // Other spellings of the same digests are no text of ours: somebody, or a bad disk, changed it.
    const isOurs = digests.toString('base64') === segment.digests;
    if (used !== digests.length || zeroRun !== segment.zero.length || !isOurs) {
      throw new KybernateError('CheckpointCorrupt', `the chunks of ${file.path} do not fit its size`, {
        details: { file: file.path },
      });
    }
  }
  return chunks;
}

/** Collects the chunks of one segment in order. */
export class ChunkListBuilder {
  #digests = Buffer.alloc(64 * DIGEST_BYTES);
  #used = 0;
  #count = 0;
  readonly #zero: number[] = [];

  /** @param digest undefined for a chunk of zeros */
  add(digest: Uint8Array | undefined): void {
    const index = this.#count;
    this.#count += 1;
    if (digest === undefined) {
      const last = this.#zero.length - 1;
      if (last > 0 && (this.#zero[last - 1] ?? 0) + (this.#zero[last] ?? 0) === index) {
        this.#zero[last] = (this.#zero[last] ?? 0) + 1;
      } else {
        this.#zero.push(index, 1);
      }
      return;
    }
    if (this.#used + DIGEST_BYTES > this.#digests.length) {
      this.#digests = Buffer.concat([this.#digests, Buffer.alloc(this.#digests.length)]);
    }
    this.#digests.set(digest, this.#used);
    this.#used += DIGEST_BYTES;
  }

  finish(): Pick<Segment, 'zero' | 'digests'> {
    return { zero: this.#zero, digests: this.#digests.subarray(0, this.#used).toString('base64') };
  }
}

/*
 * From the compact form of a manifest's chunks to single chunks, and back. Runs of zeros stay runs where it matters: a
 * file of a terabyte that is all holes has 16 million chunks.
 */
import { chunkRuns, DIGEST_BYTES, type ManifestFile, type Segment } from '../core/checkpoint/manifest.ts';
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

export interface StoredChunk extends Chunk {
  readonly digest: Uint8Array;
}

/** Neighbouring chunks of one length: all of zeros, or none. */
export interface Span {
  /** number of the first chunk in the file */
  readonly index: number;
  /** of the first chunk in the file */
  readonly offset: number;
  readonly count: number;
  /** of each chunk */
  readonly bytes: number;
  /** one after the other; absent: zeros */
  readonly digests?: Uint8Array;
}

/**
 * The chunks of a file in spans, in order.
 * @throws CheckpointCorrupt when the lists of a segment do not fit its length; at the end of the segment at the latest
 */
export function* spansOf(file: ManifestFile): Generator<Span> {
  let index = 0;
  let offset = 0;
  for (const segment of file.segments) {
    for (const span of segmentSpans(file, segment)) {
      yield { ...span, index: index + span.index, offset: offset + span.offset };
    }
    for (const { count, bytes } of chunkRuns(segment)) {
      index += count;
      offset += count * bytes;
    }
  }
}

/** Index and offset are those in the segment. */
function* segmentSpans(file: ManifestFile, segment: Segment): Generator<Span> {
  const { zero } = segment;
  const digests = Buffer.from(segment.digests, 'base64');
  let index = 0;
  let offset = 0;
  let pair = 0;
  let used = 0;
  for (const run of chunkRuns(segment)) {
    for (let left = run.count; left > 0;) {
      // A run that overlaps, is empty or lies behind the end is never reached or finished: its pair is left over.
      const zeroStart = zero[pair] ?? Number.POSITIVE_INFINITY;
      const zeroEnd = zeroStart + (zero[pair + 1] ?? 0);
      const isZero = index >= zeroStart && index < zeroEnd;
      const until = isZero ? zeroEnd : index < zeroStart ? zeroStart : Number.POSITIVE_INFINITY;
      const count = Math.min(left, until - index);
      const end = used + (isZero ? 0 : count * DIGEST_BYTES);
      if (end > digests.length) {
        throw misfit(file);
      }
      const at = { index, offset, count, bytes: run.bytes };
      yield isZero ? at : { ...at, digests: digests.subarray(used, end) };
      pair += isZero && index + count === zeroEnd ? 2 : 0;
      used = end;
      index += count;
      offset += count * run.bytes;
      left -= count;
    }
  }
  // Other spellings of the same digests are no text of ours: somebody, or a bad disk, changed it.
  if (used !== digests.length || pair !== zero.length || digests.toString('base64') !== segment.digests) {
    throw misfit(file);
  }
}

function misfit(file: ManifestFile): KybernateError {
  return new KybernateError('CheckpointCorrupt', `the chunks of ${file.path} do not fit its size`, {
    details: { file: file.path },
  });
}

/** Every chunk of a file, in order; throws as `spansOf`. */
export function* chunksOf(file: ManifestFile): Generator<Chunk> {
  for (const span of spansOf(file)) {
    if (span.digests !== undefined) {
      yield* storedOf(span, span.digests);
      continue;
    }
    const { bytes } = span;
    for (let at = 0; at < span.count; at += 1) {
      yield { index: span.index + at, offset: span.offset + at * bytes, bytes };
    }
  }
}

/** The chunks of a file that are not zeros, in order; throws as `spansOf`. */
export function* storedChunksOf(file: ManifestFile): Generator<StoredChunk> {
  for (const span of spansOf(file)) {
    if (span.digests !== undefined) {
      yield* storedOf(span, span.digests);
    }
  }
}

function* storedOf({ index, offset, count, bytes }: Span, digests: Uint8Array): Generator<StoredChunk> {
  for (let at = 0; at < count; at += 1) {
    const digest = digests.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES);
    yield { index: index + at, offset: offset + at * bytes, bytes, digest };
  }
}

/** Collects the chunks of one segment in order. */
export class ChunkListBuilder {
  #digests = Buffer.alloc(64 * DIGEST_BYTES);
  #used = 0;
  #count = 0;
  readonly #zero: number[] = [];

  add(digest: Uint8Array): void {
    this.#count += 1;
    if (this.#used + DIGEST_BYTES > this.#digests.length) {
      this.#digests = Buffer.concat([this.#digests, Buffer.alloc(this.#digests.length)]);
    }
    this.#digests.set(digest, this.#used);
    this.#used += DIGEST_BYTES;
  }

  addZeros(count: number): void {
    const index = this.#count;
    this.#count += count;
    const last = this.#zero.length - 1;
    if (last > 0 && (this.#zero[last - 1] ?? 0) + (this.#zero[last] ?? 0) === index) {
      this.#zero[last] = (this.#zero[last] ?? 0) + count;
    } else if (count > 0) {
      this.#zero.push(index, count);
    }
  }

  finish(): Pick<Segment, 'zero' | 'digests'> {
    return { zero: this.#zero, digests: this.#digests.subarray(0, this.#used).toString('base64') };
  }
}

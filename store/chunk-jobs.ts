/*
 * The work on chunks that costs processor time, as plain functions over plain data: read and digest, read, check and
 * compress, decompress and check. chunk-workers.ts runs them on threads; a little work is done where it arises.
 */
import { readSync } from 'node:fs';
import { MAX_CHUNK_BYTES, type Codec } from '../core/pack/pack.ts';
import { decodeChunk, encodeChunk, ENCODE_SPARE_BYTES } from './codec.ts';
import { digestOf } from './digest.ts';

/** Raw bytes of one job: a millisecond or less, and small enough to be still in the cache when it is compressed. */
export const JOB_BYTES = 2 ** 20;
/** After so many chunks in a row that did not shrink, the next ones are stored as they are … */
const GIVE_UP_AFTER = 8;
/** … but for one in so many, which is tried: when it shrinks, all are tried again. */
const RETRY_EVERY = 8;

/** Where a chunk lies in its file. */
export interface Extent {
  readonly offset: number;
  readonly bytes: number;
}

/** A file that the caller keeps open until the job is done. */
interface FileJob {
  readonly fd: number;
  /** rising, not overlapping, at most `JOB_BYTES` together */
  readonly extents: readonly Extent[];
}

export interface DigestJob extends FileJob {
  readonly kind: 'digest';
}

export interface EncodeJob extends FileJob {
  readonly kind: 'encode';
  /** expected digest of each chunk, back to back */
  readonly digests: Uint8Array;
  readonly codec: Codec;
  /** what the last job of this file answered */
  readonly unshrunk: number;
  /** memory of an earlier result, to be used again */
  readonly spare?: ArrayBuffer;
}

export interface DecodeJob {
  readonly kind: 'decode';
  /** holds the bodies of the chunks; shared, so that nothing is copied to the thread, and not written meanwhile */
  readonly stored: SharedArrayBuffer;
  readonly chunks: readonly StoredBody[];
  /** expected digest of each chunk, back to back */
  readonly digests: Uint8Array;
  /** memory of an earlier result, to be used again */
  readonly spare?: ArrayBuffer;
}

/** A chunk as it was stored. */
export interface StoredBody {
  /** in the memory */
  readonly offset: number;
  readonly codec: Codec;
  readonly storedBytes: number;
  readonly rawBytes: number;
}

export type Job = DigestJob | EncodeJob | DecodeJob;

/** The file is shorter than its extents say. */
export interface ShortFile {
  readonly kind: 'short';
}

export interface Digests {
  readonly kind: 'digests';
  /** undefined: the chunk holds zeros only */
  readonly digests: ReadonlyArray<Uint8Array | undefined>;
}

export interface Encoded {
  readonly kind: 'encoded';
  readonly memory: ArrayBuffer;
  /** lengths of the stored chunks, which lie back to back in `memory` */
  readonly storedBytes: readonly number[];
  readonly codecs: readonly Codec[];
  /** chunks in a row, up to the last, that did not shrink */
  readonly unshrunk: number;
}

/** A chunk is not what its digest says. */
export interface Changed {
  readonly kind: 'changed';
  readonly chunk: number;
  readonly found: Uint8Array;
}

export interface Decoded {
  readonly kind: 'decoded';
  /** the chunks that were compressed, back to back, each with the length that was promised; the others lie as stored */
  readonly memory: ArrayBuffer;
  /** false: it does not decode, or is not what its digest says; its bytes in `memory` mean nothing */
  readonly whole: readonly boolean[];
}

export interface ResultOf {
  readonly digest: Digests | ShortFile;
  readonly encode: Encoded | Changed | ShortFile;
  readonly decode: Decoded;
}
export type Result = ResultOf[Job['kind']];

const ZEROS = Buffer.alloc(MAX_CHUNK_BYTES);

/** True for a chunk that holds zeros only. */
export function isZero(bytes: Uint8Array): boolean {
  return ZEROS.subarray(0, bytes.length).equals(bytes);
}

/** Neighbours, in order, for one job each: at most `JOB_BYTES` raw together, or one chunk that is larger. */
export function groupForJobs<Chunk>(chunks: readonly Chunk[], rawBytesOf: (chunk: Chunk) => number): Chunk[][] {
  const groups: Chunk[][] = [];
  let sum = JOB_BYTES;
  for (const chunk of chunks) {
    const rawBytes = rawBytesOf(chunk);
    sum += rawBytes;
    if (sum > JOB_BYTES || groups.length === 0) {
      groups.push([]);
      sum = rawBytes;
    }
    groups.at(-1)?.push(chunk);
  }
  return groups;
}

/** Runs a job on this thread. `scratch` has `JOB_BYTES` and is free for its use. */
export function runJob(job: Job, scratch: Buffer): Result {
  if (job.kind === 'digest') {
    return digestChunks(job, scratch);
  }
  return job.kind === 'encode' ? encodeChunks(job, scratch) : decodeChunks(job);
}

function digestChunks({ fd, extents }: DigestJob, scratch: Buffer): Digests | ShortFile {
  const chunks = readExtents(fd, extents, scratch);
  if (chunks === undefined) {
    return { kind: 'short' };
  }
  return { kind: 'digests', digests: chunks.map((bytes) => (isZero(bytes) ? undefined : digestOf(bytes))) };
}

function encodeChunks(job: EncodeJob, scratch: Buffer): Encoded | Changed | ShortFile {
  const chunks = readExtents(job.fd, job.extents, scratch);
  if (chunks === undefined) {
    return { kind: 'short' };
  }
  const rawBytes = job.extents.reduce((sum, { bytes }) => sum + bytes, 0);
  const memory = memoryFor(rawBytes + ENCODE_SPARE_BYTES, job.spare);
  const out = new Uint8Array(memory);
  const storedBytes: number[] = [];
  const codecs: Codec[] = [];
  let used = 0;
  let unshrunk = job.unshrunk;
  for (const [index, raw] of chunks.entries()) {
    const found = digestOf(raw);
    if (!isDigest(found, job.digests, index)) {
      return { kind: 'changed', chunk: index, found };
    }
    const tries = unshrunk < GIVE_UP_AFTER || unshrunk % RETRY_EVERY === 0;
    const { codec, bytes } = encodeChunk(raw, tries ? job.codec : 'none', out, used);
    unshrunk = codec === 'none' ? unshrunk + 1 : 0;
    used += bytes.length;
    storedBytes.push(bytes.length);
    codecs.push(codec);
  }
  return { kind: 'encoded', memory, storedBytes, codecs, unshrunk };
}

function decodeChunks({ stored, chunks, digests, spare }: DecodeJob): Decoded {
  const memory = memoryFor(decodedBytes(chunks), spare);
  const out = new Uint8Array(memory);
  let written = 0;
  const whole = chunks.map(({ offset, codec, storedBytes, rawBytes }, index) => {
    const raw = decodeChunk(codec, new Uint8Array(stored, offset, storedBytes), rawBytes, out.subarray(written));
    written += codec === 'none' ? 0 : rawBytes;
    return raw !== undefined && isDigest(digestOf(raw), digests, index);
  });
  return { kind: 'decoded', memory, whole };
}

function isDigest(found: Uint8Array, expected: Uint8Array, index: number): boolean {
  return Buffer.compare(found, expected.subarray(index * found.length, (index + 1) * found.length)) === 0;
}

/** Of the chunks that a job decompresses. */
function decodedBytes(chunks: readonly StoredBody[]): number {
  return chunks.reduce((sum, { codec, rawBytes }) => (codec === 'none' ? sum : sum + rawBytes), 0);
}

/** Memory of `bytes` at least: the spare one when it is large enough. */
function memoryFor(bytes: number, spare: ArrayBuffer | undefined): ArrayBuffer {
  return spare !== undefined && spare.byteLength >= bytes
    ? spare
    : new ArrayBuffer(Math.max(bytes, Math.min(2 * bytes, JOB_BYTES + ENCODE_SPARE_BYTES)));
}

/** The chunks, neighbours read at one go; undefined when the file ends before them. */
function readExtents(fd: number, extents: readonly Extent[], scratch: Buffer): Buffer[] | undefined {
  const chunks: Buffer[] = [];
  let used = 0;
  let run = { at: 0, offset: extents[0]?.offset ?? 0 };
  for (const { offset, bytes } of extents) {
    if (offset !== run.offset + (used - run.at)) {
      if (!readWhole(fd, scratch.subarray(run.at, used), run.offset)) {
        return undefined;
      }
      run = { at: used, offset };
    }
    chunks.push(scratch.subarray(used, used + bytes));
    used += bytes;
  }
  return readWhole(fd, scratch.subarray(run.at, used), run.offset) ? chunks : undefined;
}

function readWhole(fd: number, into: Buffer, offset: number): boolean {
  for (let done = 0; done < into.length;) {
    const read = readSync(fd, into, done, into.length - done, offset + done);
    if (read === 0) {
      return false;
    }
    done += read;
  }
  return true;
}

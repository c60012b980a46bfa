/* One ranged read of a pack: its chunks opened, decompressed on threads and compared with their digests. */
import type { Manifest } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import type { PackEntry } from '../core/pack/pack.ts';
import { JOB_BYTES, memoryFor } from './chunk-jobs.ts';
import type { Occurrence } from './chunk-uses.ts';
import type { RunChunkJob } from './chunk-workers.ts';
import { openChunk } from './crypto/chunk-sealing.ts';
import type { Opener } from './crypto/store-keys.ts';
import { toHex } from './digest.ts';
import { packKey } from './keys.ts';

export interface PlannedChunk {
  /** number in the table of distinct chunks */
  readonly chunk: number;
  readonly entry: PackEntry;
  /** absent: the pack is plain */
  readonly opener?: Opener;
}

/** One ranged read. */
export interface PackRead {
  readonly pack: string;
  readonly offset: number;
  readonly bytes: number;
  readonly chunks: readonly PlannedChunk[];
}

export interface DecodedChunk {
  readonly chunk: number;
  /** valid until whoever got it returns */
  readonly raw: Uint8Array;
}

/** Which chunk is which, for its check and for messages. */
interface ChunkPlaces {
  readonly manifest: Manifest;
  occurrences(chunk: number): Occurrence[];
  digestOf(chunk: number): Uint8Array;
}

export interface DecodeTools {
  readonly run: RunChunkJob;
  readonly spares: Spares;
}

/**
 * @param stored the bytes of the read, fewer or none when the pack has no more
 * @returns each chunk or its damage, and the memory in which they lie, which goes to the spares when nobody needs them
 */
export async function decodeRead(
  plan: ChunkPlaces,
  read: PackRead,
  stored: Uint8Array | undefined,
  tools: DecodeTools,
): Promise<{ decoded: Array<DecodedChunk | KybernateError>; memory: ArrayBuffer[] }> {
  const jobs = groupsOf(read.chunks).map((chunks) => decodeGroup(plan, { ...read, chunks }, stored, tools));
  const done = await Promise.all(jobs);
  return { decoded: done.flatMap(({ decoded }) => decoded), memory: done.map(({ memory }) => memory) };
}

/** Memory to be used again: left to the collector it would pile up faster than it is collected. */
export interface Spares {
  readonly stored: ArrayBuffer[];
  readonly raw: ArrayBuffer[];
}

/** Chunks for one job each. */
function groupsOf(chunks: readonly PlannedChunk[]): PlannedChunk[][] {
  const groups: PlannedChunk[][] = [];
  let rawBytes = JOB_BYTES;
  for (const planned of chunks) {
    rawBytes += planned.entry.rawBytes;
    if (rawBytes > JOB_BYTES) {
      groups.push([]);
      rawBytes = planned.entry.rawBytes;
    }
    groups.at(-1)?.push(planned);
  }
  return groups;
}

async function decodeGroup(
  plan: ChunkPlaces,
  read: PackRead,
  stored: Uint8Array | undefined,
  { run, spares }: DecodeTools,
): Promise<{ decoded: Array<DecodedChunk | KybernateError>; memory: ArrayBuffer }> {
  const sealed = read.chunks.map(({ entry }) => {
    const start = entry.offset - read.offset;
    const body = stored?.subarray(start, start + entry.storedBytes);
    return body?.length === entry.storedBytes ? body : undefined;
  });
  const bodies = read.chunks.map(({ entry, opener }, index) => {
    const body = sealed[index];
    return body === undefined || opener === undefined ? body : openChunk(opener, entry, body);
  });
  const chunks = read.chunks.flatMap(({ chunk, entry: { codec, rawBytes } }, index) => {
    const storedBytes = bodies[index]?.length;
    // A view would take the whole table along to the other thread.
    const digest = new Uint8Array(plan.digestOf(chunk));
    return storedBytes === undefined ? [] : [{ codec, storedBytes, rawBytes, digest }];
  });
  const spare = spares.raw.pop();
  const { memory, whole, ...job } = await run({
    kind: 'decode',
    stored: joined(bodies, spares.stored.pop()),
    chunks,
    ...(spare === undefined ? {} : { spare }),
  });
  spares.stored.push(job.stored);
  let at = 0;
  let number = 0;
  const decoded = read.chunks.map((planned, index) => {
    if (bodies[index] === undefined) {
      const cutOff = sealed[index] === undefined ? 'the pack is cut off' : 'it does not decrypt with its key';
      return damagedChunk(plan, read, planned, stored === undefined ? 'the pack is missing' : cutOff);
    }
    const raw = new Uint8Array(memory, at, planned.entry.rawBytes);
    const isWhole = whole[number] === true;
    at += raw.length;
    number += 1;
    return isWhole ? { chunk: planned.chunk, raw } : damagedChunk(plan, read, planned, 'its digest does not match');
  });
  return { decoded, memory };
}

function joined(bodies: ReadonlyArray<Uint8Array | undefined>, spare: ArrayBuffer | undefined): ArrayBuffer {
  const memory = memoryFor(
    bodies.reduce((sum, body) => sum + (body?.length ?? 0), 0),
    spare,
  );
  const all = new Uint8Array(memory);
  let used = 0;
  for (const body of bodies) {
    all.set(body ?? [], used);
    used += body?.length ?? 0;
  }
  return memory;
}

function damagedChunk(plan: ChunkPlaces, read: PackRead, planned: PlannedChunk, problem: string): KybernateError {
  const place = plan.occurrences(planned.chunk)[0];
  const file = plan.manifest.files[place?.file ?? 0]?.path ?? '';
  const kind = problem === 'the pack is missing' ? 'missing' : 'damaged';
  const where = { file, chunk: place?.chunk ?? 0, pack: read.pack, object: packKey(read.pack) };
  return new KybernateError(
    'CheckpointCorrupt',
    `chunk ${where.chunk} of ${file} is damaged in pack ${read.pack}: ${problem}`,
    { details: { kind, ...where, digest: toHex(plan.digestOf(planned.chunk)) } },
  );
}

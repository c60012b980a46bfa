/* One ranged read of a pack: its chunks opened, decompressed on threads and compared with their digests. */
import type { Manifest } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import type { PackEntry } from '../core/pack/pack.ts';
import { groupForJobs } from './chunk-jobs.ts';
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
  /** memory of earlier results, to be used again: left to the collector it would pile up faster than it is collected */
  readonly spares: ArrayBuffer[];
}

/** What a read has brought. */
export interface ReadBodies {
  /** what the whole read needs, or more; opened chunks take the place of sealed ones in it */
  readonly memory: SharedArrayBuffer;
  /** of it, fewer than were asked for when the pack has no more; undefined: the pack is missing */
  readonly bytes: number | undefined;
}

/**
 * @returns each chunk or its damage, and the memory in which those lie that were compressed, which goes to the spares
 *   when nobody needs them; the others lie in that of the read
 */
export async function decodeRead(
  plan: ChunkPlaces,
  read: PackRead,
  stored: ReadBodies,
  tools: DecodeTools,
): Promise<{ decoded: Array<DecodedChunk | KybernateError>; memory: ArrayBuffer[] }> {
  const groups = groupForJobs(read.chunks, ({ entry }) => entry.rawBytes);
  const jobs = groups.map((chunks) => decodeGroup(plan, { ...read, chunks }, stored, tools));
  const done = await Promise.all(jobs);
  return { decoded: done.flatMap(({ decoded }) => decoded), memory: done.map(({ memory }) => memory) };
}

async function decodeGroup(
  plan: ChunkPlaces,
  read: PackRead,
  stored: ReadBodies,
  { run, spares }: DecodeTools,
): Promise<{ decoded: Array<DecodedChunk | KybernateError>; memory: ArrayBuffer }> {
  const bodies = read.chunks.map((planned) => bodyOf(read, planned, stored));
  const usable = read.chunks.flatMap(({ chunk, entry: { codec, rawBytes } }, index) => {
    const body = bodies[index];
    return body === undefined || 'problem' in body ? [] : [{ chunk, ...body, codec, rawBytes }];
  });
  const spare = spares.pop();
  const { memory, whole } = await run({
    kind: 'decode',
    stored: stored.memory,
    chunks: usable.map(({ offset, codec, storedBytes, rawBytes }) => ({ offset, codec, storedBytes, rawBytes })),
    digests: Buffer.concat(usable.map(({ chunk }) => plan.digestOf(chunk))),
    ...(spare === undefined ? {} : { spare }),
  });
  let at = 0;
  let number = 0;
  const decoded = read.chunks.map((planned, index) => {
    const body = bodies[index];
    if (body === undefined || 'problem' in body) {
      return damagedChunk(plan, read, planned, body?.problem ?? 'the pack is missing');
    }
    const isWhole = whole[number] === true;
    number += 1;
    const { codec, rawBytes } = planned.entry;
    const start = at;
    at += codec === 'none' ? 0 : rawBytes;
    if (!isWhole) {
      return damagedChunk(plan, read, planned, 'its digest does not match');
    }
    const raw =
      codec === 'none' ? new Uint8Array(stored.memory, body.offset, rawBytes) : new Uint8Array(memory, start, rawBytes);
    return { chunk: planned.chunk, raw };
  });
  return { decoded, memory };
}

/** Where the chunk lies in memory, opened if it was sealed. */
function bodyOf(
  read: PackRead,
  { entry, opener }: PlannedChunk,
  { memory, bytes }: ReadBodies,
): { readonly offset: number; readonly storedBytes: number } | { readonly problem: string } {
  const offset = entry.offset - read.offset;
  if (bytes === undefined) {
    return { problem: 'the pack is missing' };
  }
  if (offset + entry.storedBytes > bytes) {
    return { problem: 'the pack is cut off' };
  }
  if (opener === undefined) {
    return { offset, storedBytes: entry.storedBytes };
  }
  const body = new Uint8Array(memory, offset, entry.storedBytes);
  const opened = openChunk(opener, entry, body);
  if (opened === undefined) {
    return { problem: 'it does not decrypt with its key' };
  }
  body.set(opened);
  return { offset, storedBytes: opened.length };
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

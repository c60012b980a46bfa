/*
 * What has to be read to get a published checkpoint's chunks, and the reading: every distinct chunk once, pack by pack,
 * in ranges that join neighbours, several at a time; each chunk decoded and its digest checked before anybody sees it.
 */
import type { Manifest, ManifestFile, PublishedManifest } from '../core/checkpoint/manifest.ts';
import type { PackEntry, PackIndex } from '../core/pack/pack.ts';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend, Reader } from './backend/backend.ts';
import type { StoredChunk } from './chunk-list.ts';
import { ChunkUses, type Occurrence } from './chunk-uses.ts';
import { chunkJobRunner } from './chunk-workers.ts';
import { namesInPacks, openerOf } from './crypto/chunk-sealing.ts';
import type { Opener } from './crypto/store-keys.ts';
import { decodeRead, type DecodedChunk, type PackRead, type PlannedChunk } from './decode-read.ts';
import { toHex } from './digest.ts';
import { readFileList, type FileList } from './file-list.ts';
import { indexKey, packKey } from './keys.ts';
import { forEachLimit } from './limit.ts';
import { readChecked } from './read-checked.ts';
import { readIndexFromPack, readPackIndex } from './pack-index.ts';
import { countMemory } from './transfer-memory.ts';

const PARALLEL_INDEXES = 8;
const PARALLEL_READS = 6;
/** About 10 MB. */
const MAX_KNOWN_INDEXES = 256;
const READ_BYTES = 4 * 2 ** 20;
/** Chunks of one read, decoded: well compressed ones must not pile up. */
const RAW_BYTES = 4 * 2 ** 20;
/** Unneeded bytes between two chunks that are cheaper to read than a second request. */
const GAP_BYTES = 131_072;

export interface ReadPlan {
  readonly manifest: Manifest;
  /** text of the file list, byte for byte the node's manifest.json */
  readonly listText: Uint8Array;
  /** raw bytes of all distinct chunks */
  readonly rawBytes: number;
  /** bytes of file content that are not zeros */
  readonly contentBytes: number;
  readonly reads: readonly PackRead[];
  occurrences(chunk: number): Occurrence[];
  /** of the chunk's content; a view */
  digestOf(chunk: number): Uint8Array;
  /** number of the chunk with this digest, if it is planned */
  find(digest: Uint8Array): number | undefined;
  /** the same for these chunks alone */
  only(chunks: ReadonlySet<number>): ReadPlan;
}

export interface PlanOptions {
  /** `refuseDamage` otherwise */
  readonly onDamage?: OnDamage;
  /** chunks that are to be read; absent: all. No more indexes are read than it takes to find them */
  readonly wanted?: (file: ManifestFile, chunk: StoredChunk) => boolean;
  /** what earlier plans of the same checkpoint have read; filled by this one */
  readonly known?: KnownParts;
}

/** Kept between plans: file list, and indexes as long as they are few. */
export class KnownParts {
  list: FileList | undefined;
  readonly indexes = new Map<string, PackIndex>();

  keep(pack: string, index: PackIndex | undefined): void {
    if (index !== undefined && this.indexes.size < MAX_KNOWN_INDEXES) {
      this.indexes.set(pack, index);
    }
  }
}

/**
 * Told of every damage, always a CheckpointCorrupt whose details say `kind`, and which `file`, `chunk`, `pack` and
 * `object` it is about. Returns, and the reading goes on without the damaged part; or throws, and it ends.
 */
export type OnDamage = (damage: KybernateError) => void;

/** No damage is accepted. */
export function refuseDamage(damage: KybernateError): never {
  throw damage;
}

/**
 * Reads file list and indexes and checks them against the manifest.
 * @throws CheckpointCorrupt when the list is missing or not the manifest's; what `onDamage` throws when an index is
 *   damaged or a chunk is in none of the packs
 */
export async function planRead(
  backend: Backend,
  published: PublishedManifest,
  op: Op,
  { onDamage = refuseDamage, wanted, known = new KnownParts() }: PlanOptions = {},
): Promise<ReadPlan> {
  known.list ??= await readChecked(backend, (from) => readFileList(from, published, op.signal));
  const { manifest, listText } = known.list;
  const uses = new ChunkUses(manifest, wanted);
  const names = await namesInPacks(backend, published, uses.table, op.signal);
  const entries: Array<Place | undefined> = Array.from({ length: uses.table.count });
  let missing = entries.length;
  await forEachLimit(knownFirst(published.packs, known), PARALLEL_INDEXES, op.signal, async ([pack, packBytes]) => {
    if (wanted !== undefined && missing === 0) {
      return;
    }
    const index = known.indexes.get(pack) ?? (await readUsableIndex(backend, [pack, packBytes], op, onDamage));
    if (wanted !== undefined) {
      known.keep(pack, index);
    }
    const opener = await openerOf(backend, pack, index, op.signal);
    for (const entry of index?.entries ?? []) {
      const chunk = names.find(entry.digest);
      if (chunk !== undefined && entries[chunk] === undefined && entry.rawBytes === uses.bytesOf(chunk)) {
        entries[chunk] = { pack, entry, ...opener };
        missing -= 1;
      }
    }
    op.progress({ phase: 'fetching' });
  });
  for (const [chunk, place] of entries.entries()) {
    if (place === undefined) {
      onDamage(missingChunk(published, manifest, uses, chunk));
    }
  }
  const plan = (chunks: Iterable<number>): ReadPlan => ({
    manifest,
    listText,
    contentBytes: uses.contentBytes,
    ...readsOf(chunks, entries),
    occurrences: (chunk) => uses.occurrences(chunk),
    digestOf: (chunk) => uses.table.digestAt(chunk),
    find: (digest) => uses.table.find(digest),
    only: plan,
  });
  return plan(entries.keys());
}

/** Packs whose index was read before may spare the reading of others. */
function knownFirst(packs: PublishedManifest['packs'], known: KnownParts): PublishedManifest['packs'] {
  const isKnown = ([pack]: readonly [string, number]): boolean => known.indexes.has(pack);
  return known.indexes.size === 0 ? packs : [...packs.filter(isKnown), ...packs.filter((pack) => !isKnown(pack))];
}

type Place = { readonly pack: string; readonly entry: PackEntry; readonly opener?: Opener };

function readsOf(
  chunks: Iterable<number>,
  places: ReadonlyArray<Place | undefined>,
): { reads: PackRead[]; rawBytes: number } {
  const byPack = new Map<string, PlannedChunk[]>();
  let rawBytes = 0;
  for (const chunk of chunks) {
    const place = places[chunk];
    if (place !== undefined) {
      const list = byPack.get(place.pack) ?? [];
      byPack.set(place.pack, list);
      list.push({ chunk, ...place });
      rawBytes += place.entry.rawBytes;
    }
  }
  return { reads: [...byPack].flatMap(([pack, list]) => toReads(pack, list)), rawBytes };
}

/** The index of a pack that the manifest names; undefined when there is none that can be used. */
async function readUsableIndex(
  backend: Backend,
  [pack, packBytes]: readonly [id: string, bytes: number],
  op: Op,
  onDamage: OnDamage,
): Promise<PackIndex | undefined> {
  const read = [readPackIndex, readIndexFromPack];
  for (const [attempt, readIndex] of read.entries()) {
    const object = attempt === 0 ? indexKey(pack) : packKey(pack);
    try {
      return await readChecked(backend, async (from) => {
        const index = await readIndex(from, pack, op.signal);
        if (index?.packBytes === packBytes) {
          return index;
        }
        const found = index === undefined ? 'is missing' : `is of another pack, of ${index.packBytes} bytes`;
        throw new KybernateError('CheckpointCorrupt', `the index of pack ${pack} in ${backend.url} ${found}`);
      });
    } catch (error) {
      if (!isKybernateError(error, 'CheckpointCorrupt')) {
        throw error;
      }
      onDamage(new KybernateError('CheckpointCorrupt', error.message, { details: { kind: 'damaged', pack, object } }));
    }
  }
  return undefined;
}

/**
 * Reads, decodes and checks every distinct chunk, and hands them over in batches, several at a time.
 * @returns bytes read from packs
 * @throws what `onDamage` throws when it is told of file, chunk and pack of a bad chunk; whatever `take` throws
 */
export async function readAllChunks(
  backend: Backend,
  plan: ReadPlan,
  op: Op,
  take: (batch: readonly DecodedChunk[]) => Promise<void>,
  onDamage: OnDamage = refuseDamage,
): Promise<number> {
  let readBytes = 0;
  const tools = { run: chunkJobRunner(plan.rawBytes), spares: new Array<ArrayBuffer>() };
  await forEachLimit(plan.reads, PARALLEL_READS, op.signal, async (read) => {
    const release = await countMemory(READ_BYTES + decompressedBytes(read), op.signal);
    const memory = bodyMemory.pop() ?? new SharedArrayBuffer(READ_BYTES);
    const used: ArrayBuffer[] = [];
    const decode = async (fresh: boolean): Promise<Array<DecodedChunk | KybernateError>> => {
      const bytes = await readInto(memory, { backend, read, fresh, op });
      readBytes += bytes ?? 0;
      const { decoded, memory: more } = await decodeRead(plan, read, { memory, bytes }, tools);
      used.push(...more);
      return decoded;
    };
    try {
      let decoded = await decode(false);
      if (decoded.some((result) => result instanceof KybernateError)) {
        // Perhaps a copy on the way is damaged and the store's own is not.
        decoded = await decode(true);
      }
      const whole = decoded.filter((result): result is DecodedChunk => !(result instanceof KybernateError));
      decoded.filter((result) => result instanceof KybernateError).forEach(onDamage);
      await take(whole);
    } finally {
      tools.spares.push(...used);
      bodyMemory.push(memory);
      release();
    }
  });
  tools.spares.forEach((memory) => memory.transfer(0));
  return readBytes;
}

/** Of reads that are over. Shared memory cannot be given back at once, so it is kept: a few times `READ_BYTES`. */
const bodyMemory: SharedArrayBuffer[] = [];

/** @returns how many bytes there are; undefined when the pack is missing */
async function readInto(
  memory: SharedArrayBuffer,
  { backend, read, fresh, op }: { backend: Reader; read: PackRead; fresh: boolean; op: Op },
): Promise<number | undefined> {
  const into = new Uint8Array(memory, 0, read.bytes);
  const range = { offset: read.offset, bytes: read.bytes };
  const stored = await backend.get(packKey(read.pack), { signal: op.signal, range, fresh, into });
  if (stored !== undefined && stored.buffer !== memory) {
    into.set(stored.subarray(0, read.bytes));
  }
  return stored === undefined ? undefined : Math.min(stored.length, read.bytes);
}

function decompressedBytes({ chunks }: PackRead): number {
  return chunks.reduce((sum, { entry }) => (entry.codec === 'none' ? sum : sum + entry.rawBytes), 0);
}

function missingChunk(
  published: PublishedManifest,
  manifest: Manifest,
  uses: ChunkUses,
  chunk: number,
): KybernateError {
  const place = uses.occurrences(chunk)[0];
  const file = manifest.files[place?.file ?? 0]?.path ?? '';
  return new KybernateError(
    'CheckpointCorrupt',
    `chunk ${place?.chunk ?? 0} of ${file} is in none of the ${published.packs.length} packs of ${published.checkpointId}`,
    { details: { kind: 'missing', file, chunk: place?.chunk ?? 0, digest: toHex(uses.table.digestAt(chunk)) } },
  );
}

function toReads(pack: string, chunks: PlannedChunk[]): PackRead[] {
  chunks.sort((left, right) => left.entry.offset - right.entry.offset);
  const reads: Array<{ pack: string; offset: number; bytes: number; chunks: PlannedChunk[] }> = [];
  let raw = 0;
  for (const planned of chunks) {
    const { offset, storedBytes, rawBytes } = planned.entry;
    const read = reads.at(-1);
    const end = offset + storedBytes;
    const joins =
      read !== undefined &&
      offset - (read.offset + read.bytes) <= GAP_BYTES &&
      end - read.offset <= READ_BYTES &&
      raw + rawBytes <= RAW_BYTES;
    if (joins) {
      read.bytes = end - read.offset;
      read.chunks.push(planned);
      raw += rawBytes;
    } else {
      reads.push({ pack, offset, bytes: storedBytes, chunks: [planned] });
      raw = rawBytes;
    }
  }
  return reads;
}

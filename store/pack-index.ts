/* Where chunks lie: reads the indexes of packs. */
import { decodePackTail, readPackFooter, type PackIndex } from '../core/pack/pack.ts';
import { isKybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend, Reader } from './backend/backend.ts';
import { digestOf } from './digest.ts';
import type { DigestTable } from './digest-table.ts';
import { indexKey, packKey, packOfKey, PREFIX } from './keys.ts';
import { forEachLimit } from './limit.ts';
import { readChecked } from './read-checked.ts';

const PARALLEL_READS = 8;
/** Indexes that an upload reads at most to find chunks again, the newest first: 11 million chunks, 1.4 TB. */
const LOOKUP_BYTES = 512 * 2 ** 20;

/**
 * The index of a pack, from its copy or, where that is missing, from the end of the pack.
 * @returns undefined when there is no such pack
 * @throws CheckpointCorrupt when it is damaged
 */
export async function readPackIndex(
  backend: Reader,
  pack: string,
  signal: AbortSignal,
): Promise<PackIndex | undefined> {
  const copy = await backend.get(indexKey(pack), { signal });
  const tail = copy ?? (await readPackTail(backend, pack, signal));
  return tail === undefined ? undefined : decodePackTail(tail, digestOf, `the index of pack ${pack}`);
}

/**
 * The index of a pack as the pack itself has it.
 * @returns undefined when there is no such pack
 * @throws CheckpointCorrupt when it is damaged
 */
export async function readIndexFromPack(
  backend: Reader,
  pack: string,
  signal: AbortSignal,
): Promise<PackIndex | undefined> {
  const tail = await readPackTail(backend, pack, signal);
  return tail === undefined ? undefined : decodePackTail(tail, digestOf, `the index of pack ${pack}`);
}

/** Index and footer of a pack, from its end, not checked; undefined when there is no such pack. */
export async function readPackTail(
  backend: Reader,
  pack: string,
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  const guess = await backend.get(packKey(pack), { signal, range: { last: 65_536 } });
  if (guess === undefined) {
    return undefined;
  }
  const { tailBytes } = readPackFooter(guess, `pack ${pack}`);
  return tailBytes <= guess.length
    ? guess.subarray(guess.length - tailBytes)
    : backend.get(packKey(pack), { signal, range: { last: tailBytes } });
}

/** In `KnownChunks.packOf`: the store does not have the chunk. */
export const MISSING = -1;

export interface KnownChunks {
  /** by number in the table: index into `packs`, or `MISSING` */
  readonly packOf: Int32Array;
  /** id and size of the packs that hold at least one of the chunks */
  readonly packs: ReadonlyArray<readonly [id: string, bytes: number]>;
  /** of these packs, where they are encrypted */
  readonly dataKeys: ReadonlySet<string>;
}

/**
 * Finds which of the wanted chunks the store already has. A pack without its index copy was cut off between the two
 * writes: its index is read from the pack and the copy written, so no pack is ever sent twice.
 * @param wanted digests, in an encrypted store addresses; packs whose data key cannot be read are passed over
 * @param condemned packs that count as absent
 */
export async function findKnownChunks(
  backend: Backend,
  wanted: DigestTable,
  condemned: ReadonlySet<string>,
  op: Op,
): Promise<KnownChunks> {
  const packOf = new Int32Array(wanted.count).fill(MISSING);
  const packs: Array<readonly [string, number]> = [];
  const dataKeys = new Set<string>();
  let missing = wanted.count;
  const stored = missing === 0 ? [] : await listPacks(backend, condemned, op);
  await forEachLimit(stored, PARALLEL_READS, op.signal, async (pack) => {
    if (missing === 0) {
      return;
    }
    const index = await readKnownIndex(backend, pack, op);
    let number = -1;
    if (index !== undefined && index.packBytes !== pack.bytes) {
      op.log.warn({ pack: pack.id, bytes: pack.bytes, expected: index.packBytes }, 'pack of another size ignored');
      return;
    }
    const usable = index !== undefined && (await canRead(backend, pack.id, index, wanted, op));
    for (const { digest } of usable ? index.entries : []) {
      const chunk = wanted.find(digest);
      if (chunk !== undefined && packOf[chunk] === MISSING) {
        number = number === -1 ? packs.push([pack.id, pack.bytes]) - 1 : number;
        packOf[chunk] = number;
        missing -= 1;
      }
    }
    if (number !== -1 && index?.dataKey !== undefined) {
      dataKeys.add(index.dataKey);
    }
    op.progress({ phase: 'uploading' });
  });
  return { packOf, packs, dataKeys };
}

/** False for a pack of the other kind, plain or encrypted, and for one that nobody with our keys could read. */
async function canRead(
  backend: Backend,
  pack: string,
  { dataKey, entries }: PackIndex,
  wanted: DigestTable,
  op: Op,
): Promise<boolean> {
  if (dataKey === undefined || backend.keys === undefined) {
    return dataKey === undefined && backend.keys === undefined;
  }
  if (!entries.some(({ digest }) => wanted.find(digest) !== undefined)) {
    return false;
  }
  try {
    await backend.keys.dataKey(dataKey, op.signal);
    return true;
  } catch (error) {
    if (!isKybernateError(error, 'KeyUnavailable') && !isKybernateError(error, 'CheckpointCorrupt')) {
      throw error;
    }
    op.log.warn({ pack, dataKey, reason: error.message }, 'pack passed over: its data key cannot be read');
    return false;
  }
}

interface StoredPack {
  readonly id: string;
  readonly bytes: number;
  readonly modifiedMs: number;
  /** 0 when the copy of the index is missing */
  readonly indexBytes: number;
}

/** Packs of the store, newest first, as many as `LOOKUP_BYTES` allow. */
async function listPacks(backend: Backend, condemned: ReadonlySet<string>, op: Op): Promise<StoredPack[]> {
  const indexBytes = new Map<string, number>();
  for await (const { key, bytes } of backend.list(PREFIX.index, { signal: op.signal })) {
    indexBytes.set(packOfKey(key) ?? '', bytes);
  }
  const packs: StoredPack[] = [];
  for await (const { key, bytes, modifiedMs } of backend.list(PREFIX.packs, { signal: op.signal })) {
    const id = packOfKey(key);
    if (id !== undefined && !condemned.has(id)) {
      packs.push({ id, bytes, modifiedMs, indexBytes: indexBytes.get(id) ?? 0 });
    }
  }
  packs.sort((left, right) => right.modifiedMs - left.modifiedMs);
  let budget = LOOKUP_BYTES;
  return packs.filter((pack) => {
    budget -= pack.indexBytes;
    return budget > 0;
  });
}

async function readKnownIndex(backend: Backend, pack: StoredPack, op: Op): Promise<PackIndex | undefined> {
  try {
    if (pack.indexBytes > 0) {
      return await readChecked(backend, (from) => readPackIndex(from, pack.id, op.signal));
    }
    const tail = await readPackTail(backend, pack.id, op.signal);
    if (tail === undefined) {
      return undefined;
    }
    const index = decodePackTail(tail, digestOf, `pack ${pack.id}`);
    await backend.put(indexKey(pack.id), tail, { signal: op.signal });
    return index;
  } catch (error) {
    if (!isKybernateError(error, 'CheckpointCorrupt')) {
      throw error;
    }
    // Its chunks are sent anew; the checkpoints that need this pack find the damage when they are read.
    op.log.warn({ pack: pack.id, reason: error.message }, 'damaged pack index ignored');
    return undefined;
  }
}

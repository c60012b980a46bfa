/*
 * A checkpoint in a store, open for reading without bringing it to the node: the file list, the indexes that it takes to
 * find the wanted chunks, and of the packs the ranges with those chunks. Every chunk is checked; a few stay in memory.
 */
import type { ManifestFile } from '../core/checkpoint/manifest.ts';
import { encodeSignature } from '../core/checkpoint/signature.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { getManifest, notPublished } from './catalog.ts';
import type { Chunk } from './chunk-list.ts';
import { chunksIn, clip, type CheckpointCopy, type Range } from './copy.ts';
import { toHex } from './digest.ts';
import { manifestKey } from './keys.ts';
import { acquireLease, newReadLeaseId } from './lease.ts';
import { KnownParts, planRead, readAllChunks, type ReadPlan } from './read-plan.ts';

/** Decoded chunks on their way to the reader, and as many ahead of it. */
const WINDOW_BYTES = 8 * 2 ** 20;
/** Decoded chunks that are kept for the next read. */
const KEPT_BYTES = 16 * 2 ** 20;
const ZEROS = new Uint8Array(262_144);

export interface StoredCopy extends CheckpointCopy {
  /** read from packs so far */
  readBytes(): number;
}

/**
 * Opens a published checkpoint; a lease keeps its packs until `close`.
 * @param whole it will be read to its end: all indexes are read at once, and chunks that occur twice are read twice
 * @throws CheckpointNotFound, CheckpointCorrupt, StorageUnavailable, StorageDenied
 */
export async function openStoredCopy(
  backend: Backend,
  checkpointId: string,
  op: Op,
  { whole = false }: { readonly whole?: boolean } = {},
): Promise<StoredCopy> {
  // What is no store, or has no such checkpoint, is left as it is, without the file of a lease.
  if ((await backend.head(manifestKey(checkpointId), { signal: op.signal })) === undefined) {
    throw notPublished(backend, checkpointId);
  }
  const lease = await acquireLease(backend, { id: newReadLeaseId(checkpointId), purpose: 'read', checkpointId }, op);
  try {
    const { manifest: published } = await getManifest(backend, checkpointId, op.signal);
    const known = new KnownParts();
    // A plan of nothing reads the file list and checks it.
    const wanted = (): boolean => false;
    const plan = await planRead(backend, published, op, whole ? { known } : { known, wanted });
    const reader = new Reader(backend, op);
    const planFor = (file: ManifestFile, { offset, bytes }: Range): Promise<ReadPlan> =>
      planRead(backend, published, op, {
        known,
        wanted: (one, chunk) => one === file && chunk.offset < offset + bytes && chunk.offset + chunk.bytes > offset,
      });
    return {
      checkpointId,
      manifest: plan.manifest,
      listText: plan.listText,
      metadataText: published.metadata.text,
      signatureText: published.signature === undefined ? undefined : encodeSignature(published.signature),
      read: (file, range = { offset: 0, bytes: file.bytes }) =>
        reader.read(file, range, () => (whole ? Promise.resolve(plan) : planFor(file, range))),
      readBytes: () => reader.readBytes,
      close: () => lease.release(),
    };
  } catch (error) {
    await lease.release();
    throw error;
  }
}

class Reader {
  readBytes = 0;
  readonly #backend: Backend;
  readonly #op: Op;
  /** by digest, the one that was used last at the end */
  readonly #kept = new Map<string, Uint8Array>();
  #keptBytes = 0;

  constructor(backend: Backend, op: Op) {
    this.#backend = backend;
    this.#op = op;
  }

  async *read(file: ManifestFile, range: Range, planOf: () => Promise<ReadPlan>): AsyncGenerator<Uint8Array> {
    const plan = await planOf();
    const windows = windowsOf(chunksIn(file, range));
    const load = (): Promise<LoadedWindow> | undefined => {
      const window = windows.next();
      const loading = window.done === true ? undefined : this.#load(plan, window.value);
      // Whoever comes to it sees its failure.
      loading?.catch(() => undefined);
      return loading;
    };
    let ahead = load();
    try {
      while (ahead !== undefined) {
        const { chunks, raws } = await ahead;
        ahead = load();
        for (const [at, chunk] of chunks.entries()) {
          yield clip(raws[at] ?? zerosOf(file, chunk), chunk, range);
        }
      }
    } finally {
      await ahead?.catch(() => undefined);
    }
  }

  async #load(plan: ReadPlan, chunks: readonly Chunk[]): Promise<LoadedWindow> {
    const raws: Array<Uint8Array | undefined> = chunks.map(({ digest }) => digest && this.#kept.get(toHex(digest)));
    const places = new Map<number, number[]>();
    for (const [at, { digest }] of chunks.entries()) {
      const number = digest === undefined || raws[at] !== undefined ? undefined : plan.find(digest);
      if (number !== undefined) {
        places.set(number, [...(places.get(number) ?? []), at]);
      }
    }
    const missing = plan.only(new Set(places.keys()));
    this.readBytes += await readAllChunks(this.#backend, missing, this.#op, (batch) => {
      for (const { chunk, raw } of batch) {
        const kept = new Uint8Array(raw);
        for (const at of places.get(chunk) ?? []) {
          raws[at] = kept;
        }
      }
      return Promise.resolve();
    });
    for (const [at, { digest }] of chunks.entries()) {
      this.#keep(digest, raws[at]);
    }
    return { chunks, raws };
  }

  #keep(digest: Uint8Array | undefined, raw: Uint8Array | undefined): void {
    if (digest === undefined || raw === undefined) {
      return;
    }
    const key = toHex(digest);
    this.#keptBytes += this.#kept.delete(key) ? 0 : raw.length;
    this.#kept.set(key, raw);
    for (const [oldest, { length }] of this.#kept) {
      if (this.#keptBytes <= KEPT_BYTES) {
        return;
      }
      this.#kept.delete(oldest);
      this.#keptBytes -= length;
    }
  }
}

/** Every chunk with a digest was read, or its damage ended the reading; were it not so, zeros must not stand in for it. */
function zerosOf({ path }: ManifestFile, { index, bytes, digest }: Chunk): Uint8Array {
  if (digest !== undefined) {
    throw new KybernateError('Internal', `chunk ${index} of ${path} was not read`);
  }
  return ZEROS.subarray(0, bytes);
}

interface LoadedWindow {
  readonly chunks: readonly Chunk[];
  /** undefined: zeros */
  readonly raws: ReadonlyArray<Uint8Array | undefined>;
}

function* windowsOf(chunks: Iterable<Chunk>): Generator<Chunk[]> {
  let window: Chunk[] = [];
  let bytes = 0;
  for (const chunk of chunks) {
    if (bytes + chunk.bytes > WINDOW_BYTES) {
      yield window;
      window = [];
      bytes = 0;
    }
    window.push(chunk);
    bytes += chunk.bytes;
  }
  if (window.length > 0) {
    yield window;
  }
}

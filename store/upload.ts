/*
 * Sends the chunks of a checkpoint that the store lacks. The order that must hold: lease → condemned list → what is
 * there → packs, each followed by its index. Nothing is visible as a checkpoint before publish.ts.
 *
 * A crash or a failed attempt loses the packs under way, at most three: everything stored is found again by its index
 * (or, between pack and index, by the pack itself) and is not sent again.
 */
import { join } from 'node:path';
import { OWN_FILES } from '../core/checkpoint/file-names.ts';
import { DIGEST_BYTES, type Manifest, type ManifestFile } from '../core/checkpoint/manifest.ts';
import type { Codec } from '../core/pack/pack.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { storedChunksOf, type StoredChunk } from './chunk-list.ts';
import type { Encoded } from './chunk-jobs.ts';
import type { EncodedChunk } from './codec.ts';
import { chunkJobRunner, chunkJobsAhead, type RunChunkJob } from './chunk-workers.ts';
import { storedChunkCount } from './chunk-uses.ts';
import { addressesOf, chunkSealer } from './crypto/chunk-sealing.ts';
import type { AddressKey } from './crypto/store-keys.ts';
import { readAddressPointer } from './crypto/vault.ts';
import { toHex } from './digest.ts';
import { unusablePacks } from './damaged.ts';
import { DigestTable } from './digest-table.ts';
import { indexKey, packKey } from './keys.ts';
import { mapAhead } from './limit.ts';
import { acquireLease, uploadLeaseId } from './lease.ts';
import { beginLedger, completeLedger, noteSent, readLedger, type PackList } from './ledger.ts';
import { findKnownChunks, MISSING, type KnownChunks } from './pack-index.ts';
import { PackWriter, type SealedPack } from './pack-writer.ts';
import { becameShorter, openRegular, toJobs } from './read-chunks.ts';

/** In a list of where chunks lie: it is in a pack of this upload. */
const SENT = -2;

export interface UploadRequest {
  readonly checkpointId: string;
  /** committed checkpoint on this node */
  readonly dir: string;
  readonly manifest: Manifest;
  readonly backend: Backend;
  readonly op: Op;
  /** `<dir>/upload.ledger` otherwise */
  readonly ledgerPath?: string;
  /** how chunks are compressed that shrink; zstd otherwise */
  readonly codec?: Codec;
  /** size at which a pack is closed */
  readonly packBytes?: number;
}

export interface Uploaded {
  /** put into the store by all attempts, indexes included */
  readonly sentBytes: number;
  /** distinct chunks sent by all attempts */
  readonly newChunks: number;
  /** distinct chunks that the store had before the first attempt */
  readonly reusedChunks: number;
  /** every pack that holds a chunk of the checkpoint */
  readonly packs: PackList;
  /** that seal these packs; absent: they are plain */
  readonly dataKeys?: readonly string[];
}

/**
 * Makes sure that every chunk of the checkpoint is in the store. May be called again after any failure, also by another
 * process; the upload's lease then lives on until it expires or the checkpoint is published.
 * @throws CheckpointCorrupt when a local file is not what the manifest says; KeyUnavailable when the store is encrypted
 *   and we have none of its keys; StorageUnavailable, StorageDenied, DiskFull
 */
export async function uploadCheckpoint(request: UploadRequest): Promise<Uploaded> {
  const { checkpointId, dir, manifest, backend, op } = request;
  const ledgerPath = request.ledgerPath ?? join(dir, OWN_FILES.uploadLedger);
  const subject = { store: backend.url, merkleRoot: manifest.merkleRoot };
  const { sent: before } = await readLedger(ledgerPath, subject);
  await beginLedger(ledgerPath, subject, before);
  const lease = await acquireLease(backend, { id: uploadLeaseId(checkpointId), purpose: 'upload', checkpointId }, op);
  try {
    const unusable = await unusablePacks(backend, op.signal);
    const wanted = distinctChunks(manifest);
    const addressKey = await addressKeyOf(backend, op.signal);
    const names = addressKey === undefined ? wanted.table : addressesOf(wanted.table, addressKey);
    const known = await findKnownChunks(backend, names, unusable, op);
    const sealing = addressKey && (await beginSealing(backend, addressKey, known, op.signal));
    const dataKeys = new Set(known.dataKeys);
    let { sentBytes, newChunks } = before;
    const packs = [...known.packs];
    const store = async (pack: SealedPack): Promise<void> => {
      const options = { signal: op.signal };
      await backend.put(packKey(pack.id), pack.bytes, options);
      await backend.put(indexKey(pack.id), pack.tail, options);
      const sent = { sentBytes: pack.bytes.length + pack.tail.length, newChunks: pack.entries.length };
      sentBytes += sent.sentBytes;
      newChunks += sent.newChunks;
      packs.push([pack.id, pack.bytes.length]);
      [sealing?.dataKey ?? []].flat().forEach((id) => dataKeys.add(id));
      await noteSent(ledgerPath, sent);
    };
    const writer = new PackWriter(store, {
      signal: op.signal,
      packBytes: request.packBytes,
      dataKey: sealing?.dataKey,
    });
    await sendChunks(request, { ...wanted, packOf: known.packOf, sealing }, writer);
    packs.sort(([left], [right]) => (left < right ? -1 : 1));
    const ends = { packs, ...(sealing === undefined ? {} : { dataKeys: [...dataKeys].sort() }) };
    await completeLedger(ledgerPath, subject, { sent: { sentBytes, newChunks }, ...ends });
    return { sentBytes, newChunks, reusedChunks: Math.max(0, wanted.table.count - newChunks), ...ends };
  } finally {
    lease.stop();
  }
}

/** undefined: what we write is plain. @throws KeyUnavailable plain bytes do not belong in this store */
async function addressKeyOf(backend: Backend, signal: AbortSignal): Promise<AddressKey | undefined> {
  if (backend.keys !== undefined) {
    return backend.keys.writersAddressKey(signal);
  }
  const addressKey = await readAddressPointer(backend, signal);
  if (addressKey !== undefined) {
    throw new KybernateError(
      'KeyUnavailable',
      `${backend.url} is encrypted (address key ${addressKey}); this process has no key-encryption key, so it uploads nothing`,
      { details: { key: addressKey } },
    );
  }
  return undefined;
}

interface Sealing {
  readonly addressKey: AddressKey;
  /** id of the data key; absent, with `seal`: there is nothing to send */
  readonly dataKey?: string;
  readonly seal?: ReturnType<typeof chunkSealer>;
}

/** With a new data key, unless the store has every chunk. */
async function beginSealing(
  backend: Backend,
  addressKey: AddressKey,
  { packOf }: KnownChunks,
  signal: AbortSignal,
): Promise<Sealing> {
  const sealer = packOf.includes(MISSING) ? await backend.keys?.newDataKey(signal) : undefined;
  return sealer === undefined ? { addressKey } : { addressKey, dataKey: sealer.keyId, seal: chunkSealer(sealer) };
}

/** As it goes into a pack. */
function toPack(
  sealing: Sealing | undefined,
  { digest, bytes }: StoredChunk,
  stored: EncodedChunk,
): readonly [name: Uint8Array, stored: EncodedChunk] {
  if (sealing?.seal === undefined) {
    return [digest, stored];
  }
  const address = sealing.addressKey.addressOf(digest);
  return [address, sealing.seal(address, stored, bytes)];
}

interface DistinctChunks {
  readonly table: DigestTable;
  /** of each chunk, by its number in the table */
  readonly bytes: readonly number[];
}

/** Every distinct chunk of the manifest that is not zeros. */
function distinctChunks(manifest: Manifest): DistinctChunks {
  const table = new DigestTable(DIGEST_BYTES, storedChunkCount(manifest));
  const lengths: number[] = [];
  for (const file of manifest.files) {
    for (const { digest, bytes } of storedChunksOf(file)) {
      lengths[table.add(digest)] = bytes;
    }
  }
  return { table, bytes: lengths };
}

/** The chunks of a file that the store lacks, the first sight of each; those given out count as there from then on. */
function* missingChunks(file: ManifestFile, wanted: DigestTable, packOf: Int32Array): Generator<StoredChunk> {
  for (const chunk of storedChunksOf(file)) {
    const number = wanted.find(chunk.digest);
    if (number !== undefined && packOf[number] === MISSING) {
      packOf[number] = SENT;
      yield chunk;
    }
  }
}

async function sendChunks(
  { dir, manifest, op, codec = 'zstd' }: UploadRequest,
  wanted: DistinctChunks & { readonly packOf: Int32Array; readonly sealing: Sealing | undefined },
  writer: PackWriter,
): Promise<void> {
  const { packOf, sealing } = wanted;
  const bytesTotal = wanted.bytes.reduce((sum, bytes, number) => (packOf[number] === MISSING ? sum + bytes : sum), 0);
  const run = chunkJobRunner(bytesTotal);
  let bytesDone = 0;
  try {
    for (const file of manifest.files) {
      const jobs = toJobs(missingChunks(file, wanted.table, packOf));
      for await (const { chunks, encoded } of encodeFile({ dir, file, jobs, codec, run }, op.signal)) {
        let at = 0;
        for (const [index, chunk] of chunks.entries()) {
          const storedBytes = encoded.storedBytes[index] ?? 0;
          const bytes = new Uint8Array(encoded.memory, at, storedBytes);
          const stored = { codec: encoded.codecs[index] ?? 'none', bytes };
          await writer.add(...toPack(sealing, chunk, stored), chunk.bytes);
          at += storedBytes;
          bytesDone += chunk.bytes;
        }
        op.progress({ phase: 'uploading', bytesDone, bytesTotal });
      }
    }
    await writer.finish();
  } finally {
    // After a failure too: no write to the store may outlive this call.
    await writer.settle();
  }
}

interface FileToEncode {
  readonly dir: string;
  readonly file: ManifestFile;
  readonly jobs: Generator<StoredChunk[]>;
  readonly codec: Codec;
  readonly run: RunChunkJob;
}

/** Reads, checks and compresses chunks of a file; what it gives is valid until the next is asked for. */
async function* encodeFile(
  { dir, file, jobs, codec, run }: FileToEncode,
  signal: AbortSignal,
): AsyncGenerator<{ chunks: readonly StoredChunk[]; encoded: Encoded }> {
  const first = jobs.next();
  if (first.done === true) {
    return;
  }
  const handle = await openRegular(join(dir, file.path), file.bytes);
  const spares: ArrayBuffer[] = [];
  let unshrunk = 0;
  try {
    const all = mapAhead(prepend(first.value, jobs), chunkJobsAhead(), signal, async (chunks) => {
      const extents = chunks.map(({ offset, bytes }) => ({ offset, bytes }));
      const digests = Buffer.concat(chunks.map(({ digest }) => digest));
      const spare = spares.pop();
      const memory = spare === undefined ? {} : { spare };
      const encoded = await run({ kind: 'encode', fd: handle.fd, extents, digests, codec, unshrunk, ...memory });
      if (encoded.kind === 'short') {
        throw becameShorter(join(dir, file.path));
      }
      if (encoded.kind === 'changed') {
        throw changedChunk(file, chunks[encoded.chunk], encoded.found);
      }
      ({ unshrunk } = encoded);
      return { chunks, encoded };
    });
    for await (const done of all) {
      yield done;
      spares.push(done.encoded.memory);
    }
  } finally {
    await handle.close();
  }
}

function* prepend<Item>(first: Item, rest: Generator<Item>): Generator<Item> {
  yield first;
  yield* rest;
}

function changedChunk(file: ManifestFile, chunk: StoredChunk | undefined, found: Uint8Array): KybernateError {
  const { index = 0, offset = 0, digest = new Uint8Array() } = chunk ?? {};
  return new KybernateError(
    'CheckpointCorrupt',
    `chunk ${index} of ${file.path} (offset ${offset}) has changed since the checkpoint was taken`,
    { details: { file: file.path, chunk: index, expected: toHex(digest), found: toHex(found) } },
  );
}

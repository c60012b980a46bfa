/*
 * Sends the chunks of a checkpoint that the store lacks. The order that must hold: lease → condemned list → what is
 * there → packs, each followed by its index. Nothing is visible as a checkpoint before publish.ts.
 *
 * A crash or a failed attempt loses the packs under way, at most four: everything stored is found again by its index
 * (or, between pack and index, by the pack itself) and is not sent again.
 */
import { join } from 'node:path';
import { OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Manifest } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { chunksOf, type Chunk } from './chunk-list.ts';
import { encodeChunk, type EncodedChunk } from './codec.ts';
import { digestOf, toHex } from './digest.ts';
import { unusablePacks } from './damaged.ts';
import { DigestTable } from './digest-table.ts';
import { indexKey, packKey } from './keys.ts';
import { mapLimit, POOL_JOBS } from './limit.ts';
import { acquireLease, uploadLeaseId } from './lease.ts';
import { beginLedger, completeLedger, noteSent, readLedger, type PackList } from './ledger.ts';
import { findKnownChunks } from './pack-index.ts';
import { PackWriter, type SealedPack } from './pack-writer.ts';
import { readChunks, type ReadChunk } from './read-chunks.ts';

export interface UploadRequest {
  readonly checkpointId: string;
  /** committed checkpoint on this node */
  readonly dir: string;
  readonly manifest: Manifest;
  readonly backend: Backend;
  readonly op: Op;
  /** `<dir>/upload.ledger` otherwise */
  readonly ledgerPath?: string;
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
}

/**
 * Makes sure that every chunk of the checkpoint is in the store. May be called again after any failure, also by another
 * process; the upload's lease then lives on until it expires or the checkpoint is published.
 * @throws CheckpointCorrupt when a local file is not what the manifest says; StorageUnavailable, StorageDenied, DiskFull
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
    const plan = planUpload(manifest);
    const known = await findKnownChunks(backend, plan.wanted, unusable, op);
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
      await noteSent(ledgerPath, sent);
    };
    await sendChunks(request, plan, known.packOf, new PackWriter(store, request.packBytes));
    packs.sort(([left], [right]) => (left < right ? -1 : 1));
    await completeLedger(ledgerPath, subject, { sentBytes, newChunks }, packs);
    return { sentBytes, newChunks, reusedChunks: Math.max(0, plan.wanted.count - newChunks), packs };
  } finally {
    lease.stop();
  }
}

interface UploadPlan {
  readonly wanted: DigestTable;
  /** the first sight of every distinct chunk, by file, in the order of their numbers in `wanted` */
  readonly files: ReadonlyArray<{ readonly path: string; readonly bytes: number; readonly chunks: NumberedChunk[] }>;
}

interface NumberedChunk extends Chunk {
  readonly digest: Uint8Array;
  readonly number: number;
}

function planUpload(manifest: Manifest): UploadPlan {
  const wanted = new DigestTable();
  const files = manifest.files.map((file) => {
    const chunks: NumberedChunk[] = [];
    for (const chunk of chunksOf(file)) {
      const before = wanted.count;
      if (chunk.digest !== undefined && wanted.add(chunk.digest) === before) {
        chunks.push({ ...chunk, digest: chunk.digest, number: before });
      }
    }
    return { path: file.path, bytes: file.bytes, chunks };
  });
  return { wanted, files };
}

async function sendChunks(
  { dir, op }: UploadRequest,
  plan: UploadPlan,
  packOf: Int32Array,
  writer: PackWriter,
): Promise<void> {
  const missing = plan.files
    .map((file) => ({ ...file, chunks: file.chunks.filter((chunk) => packOf[chunk.number] === -1) }))
    .filter((file) => file.chunks.length > 0);
  const bytesTotal = missing.reduce((sum, file) => file.chunks.reduce((part, chunk) => part + chunk.bytes, sum), 0);
  let bytesDone = 0;
  try {
    for (const { path, bytes, chunks } of missing) {
      for await (const block of readChunks(join(dir, path), bytes, chunks, op.signal)) {
        const encoded = await mapLimit(block, POOL_JOBS, op.signal, (read) => checkAndEncode(path, read));
        for (const { chunk, stored } of encoded) {
          await writer.add(chunk.digest, stored, chunk.bytes);
          bytesDone += chunk.bytes;
          op.progress({ phase: 'uploading', bytesDone, bytesTotal });
        }
      }
    }
    await writer.finish();
  } finally {
    // After a failure too: no write to the store may outlive this call.
    await writer.settle();
  }
}

async function checkAndEncode(
  path: string,
  { chunk, bytes }: ReadChunk<NumberedChunk>,
): Promise<{ chunk: NumberedChunk; stored: EncodedChunk }> {
  const digest = digestOf(bytes);
  if (Buffer.compare(digest, chunk.digest) !== 0) {
    throw new KybernateError(
      'CheckpointCorrupt',
      `chunk ${chunk.index} of ${path} (offset ${chunk.offset}) has changed since the checkpoint was taken`,
      { details: { file: path, chunk: chunk.index, expected: toHex(chunk.digest), found: toHex(digest) } },
    );
  }
  return { chunk, stored: await encodeChunk(bytes) };
}

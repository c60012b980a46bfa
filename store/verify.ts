/* Reads bytes again and compares them with what was recorded at the capture. */
import { join } from 'node:path';
import type { Manifest } from '../core/checkpoint/manifest.ts';
import { LOGS_DIR } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { getManifest } from './catalog.ts';
import { chunksOf } from './chunk-list.ts';
import { isZero } from './describe.ts';
import { digestOf } from './digest.ts';
import { acquireLease, newReadLeaseId } from './lease.ts';
import { forEachLimit } from './limit.ts';
import { merkleRoot } from './merkle.ts';
import { committedRoot } from './metadata.ts';
import { planRead, readAllChunks } from './read-plan.ts';
import { readChunks } from './read-chunks.ts';
import { walkCheckpoint } from './walk.ts';

const PARALLEL_FILES = 4;

export interface Verified {
  readonly files: number;
  /** bytes that were read: from the store as stored, on the node as they are */
  readonly bytes: number;
  readonly merkleRoot: string;
}

/**
 * Reads every chunk of a published checkpoint back from the store.
 * @throws CheckpointNotFound; CheckpointCorrupt naming file, chunk and pack; StorageUnavailable, StorageDenied
 */
export async function verifyRemote(request: {
  readonly checkpointId: string;
  readonly backend: Backend;
  readonly op: Op;
}): Promise<Verified> {
  const { checkpointId, backend, op } = request;
  const lease = await acquireLease(backend, { id: newReadLeaseId(checkpointId), purpose: 'read', checkpointId }, op);
  try {
    const { manifest: published } = await getManifest(backend, checkpointId, op.signal);
    const plan = await planRead(backend, published, op);
    let bytesDone = 0;
    const bytes = await readAllChunks(backend, plan, op, async (batch) => {
      bytesDone += batch.reduce((sum, { raw }) => sum + raw.length, 0);
      op.progress({ phase: 'verifying', bytesDone, bytesTotal: plan.rawBytes });
    });
    return { files: plan.manifest.files.length, bytes, merkleRoot: published.merkleRoot };
  } finally {
    await lease.release();
  }
}

/**
 * Reads every file of a checkpoint directory and compares it with its manifest. Files beside those of the manifest are
 * an error, but for logs. The manifest must be the one that metadata.json, where there is one, was committed with.
 * @throws CheckpointCorrupt naming file and chunk
 */
export async function verifyLocal(dir: string, manifest: Manifest, op: Op): Promise<Verified> {
  if (merkleRoot(manifest.files) !== manifest.merkleRoot) {
    throw new KybernateError('CheckpointCorrupt', `the manifest of ${dir} is damaged: its Merkle root does not match`);
  }
  const committed = await committedRoot(dir);
  if (committed !== undefined && committed !== manifest.merkleRoot) {
    throw new KybernateError('CheckpointCorrupt', `metadata and manifest of ${dir} are of different checkpoints`, {
      details: { metadata: committed, manifest: manifest.merkleRoot },
    });
  }
  const listed = new Set(manifest.files.map((file) => file.path));
  for (const { path } of await walkCheckpoint(dir, op.signal)) {
    if (!listed.has(path) && !path.startsWith(`${LOGS_DIR}/`)) {
      throw new KybernateError('CheckpointCorrupt', `${join(dir, path)} is not in the manifest`, {
        details: { file: path },
      });
    }
  }
  let bytesDone = 0;
  await forEachLimit(manifest.files, PARALLEL_FILES, op.signal, async (file) => {
    for await (const block of readChunks(join(dir, file.path), file.bytes, chunksOf(file), op.signal)) {
      for (const { chunk, bytes } of block) {
        const same = chunk.digest === undefined ? isZero(bytes) : Buffer.compare(digestOf(bytes), chunk.digest) === 0;
        if (!same) {
          throw new KybernateError(
            'CheckpointCorrupt',
            `chunk ${chunk.index} of ${join(dir, file.path)} (offset ${chunk.offset}) is damaged`,
            { details: { file: file.path, chunk: chunk.index } },
          );
        }
        bytesDone += bytes.length;
      }
      op.progress({ phase: 'verifying', bytesDone, bytesTotal: manifest.totalBytes });
    }
  });
  return { files: manifest.files.length, bytes: bytesDone, merkleRoot: manifest.merkleRoot };
}

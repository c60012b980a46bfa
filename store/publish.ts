/*
 * Makes an uploaded checkpoint visible: file list, then the check that every pack is still there, then the manifest if
 * there is none. Nothing is written into the checkpoint's directory: its mark `upload.pending` is root's to remove.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import {
  encodePublishedManifest,
  FORMAT_VERSION,
  HASH_NAME,
  parseManifest,
  type PublishedManifest,
} from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { findManifest } from './catalog.ts';
import { unusablePacks } from './damaged.ts';
import { hexDigestOf } from './digest.ts';
import { errnoOf, syncDir } from './files.ts';
import { fileListKey, manifestKey, packKey } from './keys.ts';
import { acquireLease, uploadLeaseId } from './lease.ts';
import { readLedger, type PackList } from './ledger.ts';
import { forEachLimit } from './limit.ts';
import { parseMetadata } from './metadata.ts';
import { readSignature } from './crypto/signing.ts';
import { seal } from './seal.ts';
import { uploadCheckpoint } from './upload.ts';

const PARALLEL_HEADS = 16;
const UPLOAD_ATTEMPTS = 3;

export interface PublishRequest {
  readonly checkpointId: string;
  /** the checkpoint's directory, after `uploadCheckpoint` */
  readonly dir: string;
  readonly backend: Backend;
  readonly op: Op;
  /** as given to `uploadCheckpoint`; `<dir>/upload.ledger` otherwise */
  readonly ledgerPath?: string;
}

export interface Published {
  /** URL of the manifest */
  readonly remote: string;
  /** false: it was there already, with the same content */
  readonly created: boolean;
}

/**
 * Publishes. Idempotent: a manifest of the same content is a success. Packs that were deleted since the upload are
 * sent again.
 * @throws InvalidInput when the store has another checkpoint of this id; CheckpointCorrupt when the directory
 *   contradicts itself; StorageUnavailable, StorageDenied
 */
export async function publishManifest(request: PublishRequest): Promise<Published> {
  const { checkpointId, backend, op } = request;
  const lease = await acquireLease(backend, { id: uploadLeaseId(checkpointId), purpose: 'upload', checkpointId }, op);
  try {
    const created = await publish(request);
    await rm(ledgerOf(request), { force: true });
    await lease.release();
    return { remote: `${backend.url}/${manifestKey(checkpointId)}`, created };
  } finally {
    lease.stop();
  }
}

async function publish(request: PublishRequest): Promise<boolean> {
  const { checkpointId, dir, backend, op } = request;
  const listText = await readFile(join(dir, OWN_FILES.manifest));
  const manifest = parseManifest(listText.toString('utf8'), join(dir, OWN_FILES.manifest));
  const metadataText = await readFile(join(dir, METADATA_FILE), 'utf8');
  const metadata = parseMetadata(metadataText, join(dir, METADATA_FILE));
  if (metadata.merkleRoot !== manifest.merkleRoot || metadata.checkpointId !== checkpointId) {
    throw new KybernateError(
      'CheckpointCorrupt',
      `${dir}: metadata and manifest are not of checkpoint ${checkpointId}`,
    );
  }
  if (await isPublished(backend, checkpointId, manifest.merkleRoot, op)) {
    return false;
  }
  const signature = await readSignature(dir);
  const files = { digest: hexDigestOf(listText), bytes: listText.length };
  await backend.put(fileListKey(checkpointId, files.digest), listText, {
    signal: op.signal,
  });
  const packs = await packsInPlace(
    request,
    async () => {
      const uploaded = await uploadCheckpoint({
        ...request,
        ledgerPath: ledgerOf(request),
        manifest,
      });
      return uploaded.packs;
    },
    manifest.merkleRoot,
  );
  const published: PublishedManifest = {
    version: FORMAT_VERSION,
    checkpointId,
    hash: HASH_NAME,
    merkleRoot: manifest.merkleRoot,
    publishedAt: new Date().toISOString(),
    totalBytes: manifest.totalBytes,
    files,
    packs: packs.map(([id, bytes]): [string, number] => [id, bytes]),
    metadata: {
      text: metadataText,
      digest: hexDigestOf(Buffer.from(metadataText)),
    },
    ...(signature === undefined ? {} : { signature }),
  };
  const text = seal(encodePublishedManifest(published));
  if (
    await backend.putIfAbsent(manifestKey(checkpointId), text, {
      signal: op.signal,
    })
  ) {
    return true;
  }
  // Somebody was faster, or our own earlier try arrived although its reply was lost.
  if (await isPublished(backend, checkpointId, manifest.merkleRoot, op)) {
    return false;
  }
  throw new KybernateError('StorageUnavailable', `the manifest of ${checkpointId} was there and is gone again`);
}

/** @throws InvalidInput when there is one of other content */
async function isPublished(backend: Backend, checkpointId: string, merkleRoot: string, op: Op): Promise<boolean> {
  const there = await findManifest(backend, checkpointId, op.signal);
  if (there !== undefined && there.merkleRoot !== merkleRoot) {
    throw new KybernateError(
      'InvalidInput',
      `${backend.url} already has another checkpoint of the id ${checkpointId}`,
      {
        details: {
          checkpointId,
          published: there.merkleRoot,
          ours: merkleRoot,
        },
      },
    );
  }
  return there !== undefined;
}

/** The packs of the upload, all of them there and not condemned, while our lease holds. */
async function packsInPlace(
  request: PublishRequest,
  upload: () => Promise<PackList>,
  merkleRoot: string,
): Promise<PackList> {
  const { backend, op } = request;
  const ledger = await readLedger(ledgerOf(request), {
    store: backend.url,
    merkleRoot,
  });
  let packs = ledger.packs ?? (await upload());
  for (let attempt = 1; ; attempt += 1) {
    const lost = await lostPacks(packs, backend, op);
    if (lost.length === 0) {
      return packs;
    }
    op.log.warn({ packs: lost.slice(0, 10), count: lost.length }, 'packs were deleted since the upload');
    if (attempt === UPLOAD_ATTEMPTS) {
      throw new KybernateError(
        'StorageUnavailable',
        `${lost.length} packs vanish from ${backend.url} after each upload`,
        {
          details: { packs: lost.slice(0, 10) },
        },
      );
    }
    packs = await upload();
  }
}

function ledgerOf({ dir, ledgerPath }: PublishRequest): string {
  return ledgerPath ?? join(dir, OWN_FILES.uploadLedger);
}

async function lostPacks(packs: PackList, backend: Backend, op: Op): Promise<string[]> {
  const unusable = await unusablePacks(backend, op.signal);
  const lost: string[] = [];
  await forEachLimit(packs, PARALLEL_HEADS, op.signal, async ([id, bytes]) => {
    const there = unusable.has(id) ? undefined : await backend.head(packKey(id), { signal: op.signal });
    if (there?.bytes !== bytes) {
      lost.push(id);
    }
    op.progress({ phase: 'publishing' });
  });
  return lost;
}

/**
 * Removes the mark that an upload of this checkpoint is wanted: it is published, or nobody wants it in the store any
 * more (packs that were sent then belong to nobody, or to others that have the same chunks). Idempotent; a directory
 * that is gone has no mark.
 */
export async function removePendingMark(dir: string): Promise<void> {
  try {
    await rm(join(dir, OWN_FILES.uploadPending), { force: true });
    await syncDir(dir);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') {
      throw error;
    }
  }
}

/*
 * Makes an uploaded checkpoint visible: file list, then the check that every pack is still there, then the manifest if
 * there is none. Nothing is written into the checkpoint's directory: its mark `upload.pending` is root's to remove.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { EncryptionInfo } from '../core/checkpoint/encryption.ts';
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
import { openManifest, sealManifest } from './crypto/manifests.ts';
import { sealObject } from './crypto/sealed-object.ts';
import type { Sealer } from './crypto/store-keys.ts';
import { unusablePacks } from './damaged.ts';
import { hexDigestOf } from './digest.ts';
import { errnoOf, syncDir } from './files.ts';
import { fileListKey, fileListName, leaseKey, manifestKey, packKey } from './keys.ts';
import { acquireLease, LEASE_MS, uploadLeaseId, type Lease } from './lease.ts';
import { readLedger, type PackList } from './ledger.ts';
import { forEachLimit } from './limit.ts';
import { parseMetadata } from './metadata.ts';
import { readSignature } from './crypto/signing.ts';
import { seal } from './seal.ts';
import { uploadCheckpoint, type Uploaded } from './upload.ts';

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
  /** a repair: puts the manifest in the place of the one that is there, which names damaged packs or cannot be read */
  readonly replace?: boolean;
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
    const created = await publish(request, lease);
    await rm(ledgerOf(request), { force: true });
    await lease.release();
    return { remote: `${backend.url}/${manifestKey(checkpointId)}`, created };
  } finally {
    lease.stop();
  }
}

async function publish(request: PublishRequest, lease: Lease): Promise<boolean> {
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
  if (request.replace !== true && (await isPublished(backend, checkpointId, manifest.merkleRoot, op))) {
    return false;
  }
  const signature = await readSignature(dir);
  const files = { digest: hexDigestOf(listText), bytes: listText.length };
  const sealing = await sealList(backend, checkpointId, listText, op.signal);
  const listKey = fileListKey(checkpointId, sealing?.info.list.digest ?? files.digest);
  const { packs, dataKeys = [] } = await packsInPlace(
    request,
    async () => {
      await backend.put(listKey, sealing?.listObject ?? listText, { signal: op.signal });
      await lease.renew();
      return [listKey, leaseKey(uploadLeaseId(checkpointId))];
    },
    () => uploadCheckpoint({ ...request, ledgerPath: ledgerOf(request), manifest }),
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
    metadata: { text: metadataText, digest: hexDigestOf(Buffer.from(metadataText)) },
    ...(signature === undefined ? {} : { signature }),
  };
  const stored =
    sealing === undefined
      ? published
      : sealManifest(sealing.sealer, published, { ...sealing.info, dataKeys: [...dataKeys] });
  const text = seal(encodePublishedManifest(stored));
  if (request.replace === true) {
    await backend.put(manifestKey(checkpointId), text, { signal: op.signal });
    return true;
  }
  if (await backend.putIfAbsent(manifestKey(checkpointId), text, { signal: op.signal })) {
    return true;
  }
  // Somebody was faster, or our own earlier try arrived although its reply was lost.
  if (await isPublished(backend, checkpointId, manifest.merkleRoot, op)) {
    return false;
  }
  throw new KybernateError('StorageUnavailable', `the manifest of ${checkpointId} was there and is gone again`);
}

interface SealedList {
  /** of this publication: nothing else is sealed with its key */
  readonly sealer: Sealer;
  readonly listObject: Uint8Array;
  readonly info: Pick<EncryptionInfo, 'wrappedBy' | 'addressKey' | 'list'>;
}

/** undefined: what we write is plain. */
async function sealList(
  { keys }: Backend,
  checkpointId: string,
  listText: Uint8Array,
  signal: AbortSignal,
): Promise<SealedList | undefined> {
  if (keys === undefined) {
    return undefined;
  }
  const { keyId: addressKey } = await keys.writersAddressKey(signal);
  const sealer = await keys.newDataKey(signal);
  const listObject = sealObject(sealer, fileListName(checkpointId), listText);
  const list = { digest: hexDigestOf(listObject), bytes: listObject.length };
  return { sealer, listObject, info: { wrappedBy: keys.wrappedBy, addressKey, list } };
}

/** @throws InvalidInput when there is one of other content */
async function isPublished(backend: Backend, checkpointId: string, merkleRoot: string, op: Op): Promise<boolean> {
  const stored = await findManifest(backend, checkpointId, op.signal);
  const where = `${backend.url}/${manifestKey(checkpointId)}`;
  const there = stored && (await openManifest(backend.keys, stored, where, op.signal));
  if (there !== undefined && there.merkleRoot !== merkleRoot) {
    throw new KybernateError(
      'InvalidInput',
      `${backend.url} already has another checkpoint of the id ${checkpointId}`,
      {
        details: { checkpointId, published: there.merkleRoot, ours: merkleRoot },
      },
    );
  }
  return there !== undefined;
}

type InPlace = Pick<Uploaded, 'packs' | 'dataKeys'>;

/**
 * The packs of the upload, all of them there and not condemned, while our lease holds: so the manifest must follow at
 * once. A process that stood still for long in between looks again.
 * @param prepare writes what else the manifest relies on, the lease last, and returns its keys
 */
async function packsInPlace(
  request: PublishRequest,
  prepare: () => Promise<readonly string[]>,
  upload: () => Promise<InPlace>,
  merkleRoot: string,
): Promise<InPlace> {
  const { backend, op } = request;
  const ledger = await readLedger(ledgerOf(request), { store: backend.url, merkleRoot });
  // A ledger of the other kind was written before keys were given to us, or taken away.
  const sameKind = (ledger.dataKeys === undefined) === (backend.keys === undefined);
  const { packs: sent, ...keysOfSent } = ledger;
  let stored: InPlace = sent !== undefined && sameKind ? { ...keysOfSent, packs: sent } : await upload();
  for (let attempt = 1; ; attempt += 1) {
    const startedMs = Date.now();
    const { lost, whole } = await lookAt(stored.packs, await prepare(), backend, op);
    if (whole && Date.now() - startedMs < LEASE_MS / 2) {
      return stored;
    }
    op.log.warn({ packs: lost.slice(0, 10), count: lost.length }, 'not all is in place that the manifest relies on');
    if (attempt === UPLOAD_ATTEMPTS) {
      throw new KybernateError(
        'StorageUnavailable',
        `${lost.length} packs vanish from ${backend.url} after each upload`,
        {
          details: { packs: lost.slice(0, 10) },
        },
      );
    }
    stored = lost.length === 0 ? stored : await upload();
  }
}

function ledgerOf({ dir, ledgerPath }: PublishRequest): string {
  return ledgerPath ?? join(dir, OWN_FILES.uploadLedger);
}

/** @throws StorageUnavailable while somebody takes away what an attempt long ago has left under our names */
async function lookAt(
  packs: PackList,
  keys: readonly string[],
  backend: Backend,
  op: Op,
): Promise<{ readonly lost: string[]; readonly whole: boolean }> {
  const unusable = await unusablePacks(backend, op.signal);
  const condemned = keys.find((key) => unusable.has(key));
  if (condemned !== undefined) {
    throw new KybernateError(
      'StorageUnavailable',
      `${condemned} in ${backend.url}, left by an earlier attempt, is being deleted; try again when that is over`,
    );
  }
  let whole = true;
  await forEachLimit(keys, PARALLEL_HEADS, op.signal, async (key) => {
    if ((await backend.head(key, { signal: op.signal })) === undefined) {
      whole = false;
    }
  });
  const lost: string[] = [];
  await forEachLimit(packs, PARALLEL_HEADS, op.signal, async ([id, bytes]) => {
    const there = unusable.has(id) ? undefined : await backend.head(packKey(id), { signal: op.signal });
    if (there?.bytes !== bytes) {
      lost.push(id);
    }
    op.progress({ phase: 'publishing' });
  });
  return { lost, whole: whole && lost.length === 0 };
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

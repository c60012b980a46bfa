/*
 * Reads bytes again and compares them with what was recorded at the capture. `verify…` ends at the first damage, as
 * whoever is about to use the bytes needs it; survey.ts uses the same checks to find all of it.
 */
import type { Stats } from 'node:fs';
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { LOGS_DIR, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Manifest, ManifestFile, PublishedManifest } from '../core/checkpoint/manifest.ts';
import type { Problem, VerifyMode } from '../core/contract/verify.ts';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { decodePackTail, PACK_HEADER } from '../core/pack/pack.ts';
import type { Backend } from './backend/backend.ts';
import { getManifest, type RemoteCheckpoint } from './catalog.ts';
import { chunksOf } from './chunk-list.ts';
import { isZero } from './chunk-jobs.ts';
import { digestOf } from './digest.ts';
import { publicationDigest } from './file-list.ts';
import { errnoOf } from './files.ts';
import { indexKey, packKey } from './keys.ts';
import { acquireLease, newReadLeaseId } from './lease.ts';
import { forEachLimit } from './limit.ts';
import { merkleRoot } from './merkle.ts';
import { committedRoot } from './metadata.ts';
import { readPackTail } from './pack-index.ts';
import { planRead, readAllChunks, refuseDamage, type OnDamage } from './read-plan.ts';
import { readChunks } from './read-chunks.ts';
import { noteReadback } from './verified.ts';
import { walkCheckpoint } from './walk.ts';

const PARALLEL_FILES = 4;
const PARALLEL_PACKS = 8;

export interface Verified {
  readonly files: number;
  /** bytes that were read: from the store as stored, on the node as they are */
  readonly bytes: number;
  readonly merkleRoot: string;
}

export interface Check {
  readonly op: Op;
  readonly onDamage: OnDamage;
}

/** A damage as `OnDamage` is told of it. */
export function damage(
  kind: Problem['kind'],
  message: string,
  where: Omit<Problem, 'kind' | 'message'>,
): KybernateError {
  return new KybernateError('CheckpointCorrupt', message, { details: { kind, ...where } });
}

/** Tells of a damage that `act` throws; `where` is what is not known of it yet. Other errors stay errors. */
export async function reporting(
  onDamage: OnDamage,
  where: Omit<Problem, 'message'>,
  act: () => Promise<void> | void,
): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (!isKybernateError(error, 'CheckpointCorrupt')) {
      throw error;
    }
    const details = { ...where, ...error.details };
    onDamage(new KybernateError('CheckpointCorrupt', error.message, { details, cause: error }));
  }
}

/**
 * Reads every chunk of a published checkpoint back from the store, and notes there that it was verified.
 * @throws CheckpointNotFound; CheckpointCorrupt naming file, chunk and pack; StorageUnavailable, StorageDenied; what
 *   `accept` throws
 */
export async function verifyRemote(request: {
  readonly checkpointId: string;
  readonly backend: Backend;
  readonly op: Op;
  /** looks at what is published before any of it is read; throws when it is not what it should be */
  readonly accept?: (remote: RemoteCheckpoint) => Promise<void>;
}): Promise<Verified> {
  const { checkpointId, backend, op, accept } = request;
  const lease = await acquireLease(backend, { id: newReadLeaseId(checkpointId), purpose: 'read', checkpointId }, op);
  try {
    const remote = await getManifest(backend, checkpointId, op.signal);
    await accept?.(remote);
    const { manifest } = remote;
    const { merkleRoot: root } = manifest;
    const digest = publicationDigest(manifest);
    try {
      const read = await checkStored(backend, manifest, { op, onDamage: refuseDamage });
      await noteReadback(backend, { checkpointId, digest, whole: true }, op);
      return { ...read, merkleRoot: root };
    } catch (error) {
      if (isKybernateError(error, 'CheckpointCorrupt')) {
        await noteReadback(backend, { checkpointId, digest, whole: false }, op);
      }
      throw error;
    }
  } finally {
    await lease.release();
  }
}

/**
 * Reads file list, indexes and chunks of a published checkpoint, and the ends of its packs.
 * @throws CheckpointCorrupt when the file list cannot be used, whatever `onDamage` does: without it nothing can be read
 */
export async function checkStored(
  backend: Backend,
  published: PublishedManifest,
  check: Check,
): Promise<{ files: number; bytes: number }> {
  const { op, onDamage } = check;
  const plan = await planRead(backend, published, op, { onDamage });
  if (plan.manifest.totalBytes !== published.totalBytes) {
    const message = `the manifest of ${published.checkpointId} says ${published.totalBytes} bytes, its file list ${plan.manifest.totalBytes}`;
    onDamage(damage('damaged', message, {}));
  }
  let bytesDone = 0;
  const report = (more: number): void => {
    bytesDone += more;
    op.progress({ phase: 'verifying', bytesDone, bytesTotal: plan.rawBytes });
  };
  const take = (batch: ReadonlyArray<{ readonly raw: Uint8Array }>): Promise<void> => {
    report(batch.reduce((sum, { raw }) => sum + raw.length, 0));
    return Promise.resolve();
  };
  let bytes = await readAllChunks(backend, plan, op, take, onDamage);
  await forEachLimit(published.packs, PARALLEL_PACKS, op.signal, async ([pack]) => {
    bytes += await checkPackEnds(backend, pack, check);
    report(0);
  });
  return { files: plan.manifest.files.length, bytes };
}

/** What no chunk covers: the header of a pack, the index at its end, and the copy of that. @returns bytes read */
async function checkPackEnds(backend: Backend, pack: string, { op, onDamage }: Check): Promise<number> {
  const { signal } = op;
  const object = packKey(pack);
  const header = await backend.get(object, { signal, range: { offset: 0, bytes: PACK_HEADER.length } });
  if (header === undefined) {
    onDamage(damage('missing', `pack ${pack} is missing in ${backend.url}`, { pack, object }));
    return 0;
  }
  if (Buffer.compare(header, PACK_HEADER) !== 0) {
    onDamage(damage('damaged', `pack ${pack} does not begin as a pack of version 1`, { pack, object }));
  }
  let bytes = header.length;
  await reporting(onDamage, { kind: 'damaged', pack, object }, async () => {
    const tail = (await readPackTail(backend, pack, signal)) ?? new Uint8Array();
    decodePackTail(tail, digestOf, `the end of pack ${pack}`);
    const copy = await backend.get(indexKey(pack), { signal });
    bytes += tail.length + (copy?.length ?? 0);
    if (copy === undefined || Buffer.compare(copy, tail) !== 0) {
      const [kind, how] = copy === undefined ? (['missing', 'missing'] as const) : (['damaged', 'damaged'] as const);
      onDamage(damage(kind, `the copy of the index of pack ${pack} is ${how}`, { pack, object: indexKey(pack) }));
    }
  });
  return bytes;
}

/**
 * Reads every file of a checkpoint directory and compares it with its manifest. Files beside those of the manifest are
 * an error, but for logs. The manifest must be the one that metadata.json, where there is one, was committed with.
 * @throws CheckpointCorrupt naming file and chunk
 */
export async function verifyLocal(dir: string, manifest: Manifest, op: Op): Promise<Verified> {
  const bytes = await checkDirectory(dir, manifest, 'full', { op, onDamage: refuseDamage });
  return { files: manifest.files.length, bytes, merkleRoot: manifest.merkleRoot };
}

/** @returns bytes read */
export async function checkDirectory(dir: string, manifest: Manifest, mode: VerifyMode, check: Check): Promise<number> {
  const { op, onDamage } = check;
  if (merkleRoot(manifest.files) !== manifest.merkleRoot) {
    const message = `the manifest of ${dir} is damaged: its Merkle root does not match`;
    onDamage(damage('damaged', message, { file: OWN_FILES.manifest }));
    return 0;
  }
  const committed = await committedRoot(dir);
  if (committed !== undefined && committed !== manifest.merkleRoot) {
    const message = `metadata and manifest of ${dir} are of different checkpoints: ${committed}, ${manifest.merkleRoot}`;
    onDamage(damage('damaged', message, { file: METADATA_FILE }));
  }
  const listed = new Set(manifest.files.map((file) => file.path));
  await reporting(onDamage, { kind: 'extra' }, async () => {
    for (const { path } of await walkCheckpoint(dir, op.signal)) {
      if (!listed.has(path) && !path.startsWith(`${LOGS_DIR}/`)) {
        onDamage(damage('extra', `${join(dir, path)} is not in the manifest`, { file: path }));
      }
    }
  });
  let bytesDone = 0;
  await forEachLimit(manifest.files, PARALLEL_FILES, op.signal, async (file) => {
    await reporting(onDamage, { kind: 'damaged', file: file.path }, async () => {
      for await (const bytes of checkFile(dir, file, mode, check)) {
        bytesDone += bytes;
        op.progress({ phase: 'verifying', bytesDone, bytesTotal: manifest.totalBytes });
      }
    });
  });
  return bytesDone;
}

/** Gives the bytes of each block that was read. */
async function* checkFile(
  dir: string,
  file: ManifestFile,
  mode: VerifyMode,
  { op, onDamage }: Check,
): AsyncGenerator<number> {
  const path = join(dir, file.path);
  const found = await lstatIfThere(path);
  if (found === undefined || !found.isFile()) {
    onDamage(damage('missing', `${path} is missing or not a regular file`, { file: file.path }));
    return;
  }
  if (found.size !== file.bytes) {
    onDamage(damage('size', `${path} has ${found.size} bytes instead of ${file.bytes}`, { file: file.path }));
    return;
  }
  if (mode === 'quick') {
    return;
  }
  for await (const block of readChunks(path, file.bytes, chunksOf(file), op.signal)) {
    for (const { chunk, bytes } of block) {
      const same = chunk.digest === undefined ? isZero(bytes) : Buffer.compare(digestOf(bytes), chunk.digest) === 0;
      if (!same) {
        const message = `chunk ${chunk.index} of ${path} (offset ${chunk.offset}) is damaged`;
        onDamage(damage('damaged', message, { file: file.path, chunk: chunk.index }));
      }
    }
    yield block.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }
}

async function lstatIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) {
      return undefined;
    }
    throw error;
  }
}

/*
 * Brings a published checkpoint onto the node. Root trusts neither the store nor what brought the bytes: every chunk is
 * checked before it is written, every name before it becomes a path, and metadata.json, which makes the directory a
 * checkpoint, comes last.
 */
import { mkdir, open, rm, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { encodeSignature } from '../core/checkpoint/signature.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { getManifest, type RemoteCheckpoint } from './catalog.ts';
import { checkSignature, type TrustPolicy } from './crypto/signing.ts';
import { mapDiskFull, syncDir, syncFile, writeAll, writeFileDurably, writeSynced } from './files.ts';
import { acquireLease, newReadLeaseId } from './lease.ts';
import { forEachLimit } from './limit.ts';
import { committedRoot } from './metadata.ts';
import type { DecodedChunk } from './decode-read.ts';
import { planRead, readAllChunks, type ReadPlan } from './read-plan.ts';

const PARALLEL_FILES = 8;
/** Kept free beside the checkpoint: the node needs its disk too. */
const SPARE_BYTES = 8 * 2 ** 20;

export interface FetchRequest {
  readonly checkpointId: string;
  readonly backend: Backend;
  /** becomes the checkpoint; its parent exists. What is there without metadata.json is removed first */
  readonly destDir: string;
  readonly op: Op;
  /** whose signatures count; absent: they are not looked at */
  readonly trust?: TrustPolicy;
  /** free space of the disk that stays free; a little otherwise */
  readonly minFreeBytes?: number;
}

export interface Fetched {
  /** read from packs; 0 when the checkpoint was there already */
  readonly bytes: number;
  /** size of all files */
  readonly totalBytes: number;
  readonly merkleRoot: string;
}

/** Fetches into one directory, one after the other: destination to the end of the last one. */
const running = new Map<string, Promise<unknown>>();

/**
 * Fetches a checkpoint. When the directory already is this checkpoint nothing is read again (`verifyLocal` checks it).
 * Calls for one directory in this process wait for each other.
 * Crash: a directory without metadata.json, which the next call removes.
 * @throws CheckpointNotFound; CheckpointCorrupt (file, chunk, pack); DiskFull; InvalidInput when the directory is another
 *   checkpoint; SignatureInvalid, StorageUnavailable, StorageDenied. After every error the directory is gone.
 */
export async function fetchCheckpoint(request: FetchRequest): Promise<Fetched> {
  const key = resolve(request.destDir);
  const turn = (running.get(key) ?? Promise.resolve()).then(
    () => fetchAlone(request),
    () => fetchAlone(request),
  );
  running.set(key, turn);
  try {
    return await turn;
  } finally {
    if (running.get(key) === turn) {
      running.delete(key);
    }
  }
}

async function fetchAlone({
  checkpointId,
  backend,
  destDir,
  op,
  trust,
  minFreeBytes = 0,
}: FetchRequest): Promise<Fetched> {
  op.signal.throwIfAborted();
  const lease = await acquireLease(backend, { id: newReadLeaseId(checkpointId), purpose: 'read', checkpointId }, op);
  try {
    const remote = await getManifest(backend, checkpointId, op.signal);
    const { totalBytes, merkleRoot } = remote.manifest;
    const accept = await checkTrust(remote, trust, op);
    const present = await committedRoot(destDir);
    if (present === merkleRoot) {
      await accept();
      return { bytes: 0, totalBytes, merkleRoot };
    }
    if (present !== undefined) {
      throw new KybernateError('InvalidInput', `${destDir} is another checkpoint of the id ${checkpointId}`, {
        details: { present, published: merkleRoot },
      });
    }
    const plan = await planRead(backend, remote.manifest, op);
    await rm(destDir, { recursive: true, force: true });
    try {
      await checkRoom(dirname(destDir), plan.contentBytes + Math.max(SPARE_BYTES, minFreeBytes));
      await makeFiles(destDir, plan, op.signal);
      const bytes = await writeChunks(backend, destDir, plan, op);
      await accept();
      await commit(destDir, plan, remote, op.signal);
      return { bytes, totalBytes, merkleRoot };
    } catch (error) {
      await discard(destDir, op);
      throw mapDiskFull(error, destDir);
    }
  } finally {
    await lease.release();
  }
}

/**
 * Checks who vouches for a checkpoint before anything of it is read.
 * @returns remembers it, when a trusted key has signed it
 * @throws SignatureInvalid
 */
export async function checkTrust(
  remote: RemoteCheckpoint,
  trust: TrustPolicy | undefined,
  op: Op,
): Promise<() => Promise<void>> {
  if (trust === undefined) {
    return () => Promise.resolve();
  }
  const trusted = checkSignature(trust, claimOf(remote), op);
  const { checkpointId, metadata, manifest } = remote;
  const sighting = { checkpointId, createdAt: metadata.createdAt, merkleRoot: manifest.merkleRoot };
  await trust.seen?.check(sighting, remote.remote);
  return async () => {
    if (trusted) {
      await trust.seen?.record(sighting);
    }
  };
}

/** What is about to be read, as far as the digests in the manifest fix it; the texts are compared with them later. */
function claimOf({ checkpointId, manifest, remote }: RemoteCheckpoint): Parameters<typeof checkSignature>[1] {
  const { merkleRoot, totalBytes, files, metadata, signature } = manifest;
  const statement = {
    checkpointId,
    merkleRoot,
    totalBytes,
    filesDigest: files.digest,
    metadataDigest: metadata.digest,
  };
  return { statement, signature, where: remote };
}

async function discard(dir: string, op: Op): Promise<void> {
  try {
    await rm(dir, { recursive: true, force: true });
  } catch (error) {
    // The error that led here says more; without metadata.json this is no checkpoint, and the next fetch removes it.
    op.log.error({ dir, reason: messageOf(error) }, 'a half-made checkpoint was left');
  }
}

/** Before the first byte, not after an hour. @param neededBytes with those that stay free */
async function checkRoom(dir: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  if (bavail * bsize < neededBytes) {
    throw new KybernateError(
      'DiskFull',
      `${dir} has ${bavail * bsize} bytes free; the checkpoint needs ${neededBytes}, with what is kept free; nothing was written`,
      { details: { dir, freeBytes: bavail * bsize, neededBytes } },
    );
  }
}

/** Every directory, and every file at its full length, all holes. */
async function makeFiles(destDir: string, plan: ReadPlan, signal: AbortSignal): Promise<void> {
  for (const dir of dirsOf(destDir, plan)) {
    await mkdir(dir, { mode: 0o700 });
  }
  await forEachLimit(plan.manifest.files, PARALLEL_FILES, signal, async ({ path, bytes }) => {
    const handle = await open(join(destDir, path), 'wx', 0o600);
    try {
      await handle.truncate(bytes);
    } finally {
      await handle.close();
    }
  });
}

/** Parents before children. */
function dirsOf(destDir: string, plan: ReadPlan): string[] {
  const dirs = new Set(['']);
  for (const { path } of plan.manifest.files) {
    for (let end = path.indexOf('/'); end !== -1; end = path.indexOf('/', end + 1)) {
      dirs.add(path.slice(0, end));
    }
  }
  return [...dirs].map((dir) => join(destDir, dir));
}

async function writeChunks(backend: Backend, destDir: string, plan: ReadPlan, op: Op): Promise<number> {
  let bytesDone = 0;
  return readAllChunks(backend, plan, op, async (batch) => {
    for (const [file, pieces] of byFile(plan, batch)) {
      const path = join(destDir, plan.manifest.files[file]?.path ?? '');
      const handle = await open(path, 'r+');
      try {
        for (const { offset, raw } of pieces) {
          await writeAll(handle, raw, offset);
          bytesDone += raw.length;
        }
      } finally {
        await handle.close();
      }
    }
    op.progress({ phase: 'fetching', bytesDone, bytesTotal: plan.contentBytes });
  });
}

type Piece = { readonly offset: number; readonly raw: Uint8Array };

/** Chunks that are neighbours in memory and in their file become one piece. */
function byFile(plan: ReadPlan, batch: readonly DecodedChunk[]): Map<number, Piece[]> {
  const files = new Map<number, Piece[]>();
  for (const { chunk, raw } of batch) {
    for (const { file, offset } of plan.occurrences(chunk)) {
      const pieces = files.get(file) ?? [];
      files.set(file, pieces);
      const last = pieces.at(-1);
      const follows =
        last !== undefined &&
        last.offset + last.raw.length === offset &&
        last.raw.buffer === raw.buffer &&
        last.raw.byteOffset + last.raw.length === raw.byteOffset;
      if (follows) {
        const bytes = last.raw.length + raw.length;
        pieces[pieces.length - 1] = {
          offset: last.offset,
          raw: new Uint8Array(raw.buffer, last.raw.byteOffset, bytes),
        };
      } else {
        pieces.push({ offset, raw });
      }
    }
  }
  return files;
}

async function commit(
  destDir: string,
  plan: ReadPlan,
  { manifest }: RemoteCheckpoint,
  signal: AbortSignal,
): Promise<void> {
  await writeSynced(join(destDir, OWN_FILES.manifest), plan.listText);
  if (manifest.signature !== undefined) {
    await writeSynced(join(destDir, OWN_FILES.signature), encodeSignature(manifest.signature));
  }
  await forEachLimit(plan.manifest.files, PARALLEL_FILES, signal, ({ path }) => syncFile(join(destDir, path)));
  for (const dir of dirsOf(destDir, plan)) {
    await syncDir(dir);
  }
  await syncDir(dirname(destDir));
  await writeFileDurably(join(destDir, METADATA_FILE), manifest.metadata.text);
}

/*
 * An exported archive becomes a checkpoint directory. Nobody vouches for an archive but its signature, so the rules are
 * those of a fetch: manifest, metadata and signature first, all of it checked before a file is made; then exactly the
 * files of the manifest, in its order, every chunk compared before it is written; the directory gets its name last.
 */
import { mkdir, open, rm, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { checkpointDirName, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Manifest, ManifestFile } from '../core/checkpoint/manifest.ts';
import type { Op } from '../core/op.ts';
import { readArchiveHead, refusedArchive, type ArchiveHead } from './archive-head.ts';
import { ofArchive, openPlain } from './archives/plain.ts';
import type { ByteSource } from './byte-source.ts';
import { chunksOf } from './chunk-list.ts';
import { isZero } from './chunk-jobs.ts';
import { digestOf } from './digest.ts';
import { mapDiskFull, syncDir, writeAll, writeSynced } from './files.ts';
import { isThere, removeLeftovers, renameIntoPlace, stagingPath } from './import-place.ts';
import { noRoom, roomIn } from './room.ts';
import { readPadding, readTarEntry, type TarEntry } from './tar.ts';
import { damage } from './verify.ts';

const SPARE_BYTES = 8 * 2 ** 20;

export interface ImportRequest {
  /** the archive, plain or packed by zstd or gzip */
  readonly stream: AsyncIterable<Uint8Array>;
  /** the directory of checkpoints: the new one gets its usual name there */
  readonly checkpointsDir: string;
  readonly op: Op;
  /** free space of its disk that stays free; absent: all may be used */
  readonly minFreeBytes?: number;
  /** called when everything is known but the content: throws where the checkpoint must not be taken */
  readonly accept?: (head: ArchiveHead) => void;
}

export interface Imported {
  readonly checkpointId: string;
  readonly path: string;
  readonly totalBytes: number;
  /** false: it was there already; nothing was read behind the head of the archive */
  readonly created: boolean;
}

/**
 * Crash: a directory `.import-<pid>-<id>`, which is no checkpoint; the next import removes it.
 * @throws CheckpointCorrupt the archive is damaged, cut off or none of ours; InvalidInput another checkpoint has this
 *   id; DiskFull; whatever `accept` throws. After every error nothing of the archive is on the disk.
 */
export async function importCheckpoint(request: ImportRequest): Promise<Imported> {
  const { checkpointsDir, op } = request;
  const { source } = await openPlain(request.stream);
  try {
    const { head, first } = await readArchiveHead(source);
    request.accept?.(head);
    const { checkpointId, manifest } = head;
    const path = join(checkpointsDir, checkpointDirName(checkpointId));
    const result = { checkpointId, path, totalBytes: manifest.totalBytes };
    if (await isThere(path, manifest.merkleRoot)) {
      return { ...result, created: false };
    }
    await mkdir(checkpointsDir, { recursive: true, mode: 0o700 });
    await removeLeftovers(checkpointsDir);
    const staging = stagingPath(checkpointsDir, checkpointId);
    await rm(staging, { recursive: true, force: true });
    try {
      await checkRoom(request, manifest);
      await writeFiles(staging, head, { source, first, op });
      await writeSynced(join(staging, METADATA_FILE), head.metadataText);
      await syncDir(staging);
      await renameIntoPlace(staging, path);
    } catch (error) {
      await rm(staging, { recursive: true, force: true });
      throw mapDiskFull(error, staging);
    }
    return { ...result, created: true };
  } catch (error) {
    throw ofArchive(error);
  } finally {
    await source.close();
  }
}

async function checkRoom({ checkpointsDir, minFreeBytes }: ImportRequest, manifest: Manifest): Promise<void> {
  let needed = SPARE_BYTES;
  for (const file of manifest.files) {
    for (const { digest, bytes } of chunksOf(file)) {
      needed += digest === undefined ? 0 : bytes;
    }
  }
  const room = await roomIn(checkpointsDir, minFreeBytes);
  if (room.bytes < needed) {
    throw noRoom(room, `the checkpoint needs ${needed}; nothing was written`);
  }
}

interface Content {
  readonly source: ByteSource;
  /** entry that was read already */
  readonly first: TarEntry | undefined;
  readonly op: Op;
}

async function writeFiles(staging: string, head: ArchiveHead, { source, first, op }: Content): Promise<void> {
  const { manifest, checkpointId } = head;
  const dirs = new Set([staging]);
  await mkdir(staging, { mode: 0o700 });
  let entry = first;
  let bytesDone = 0;
  const advance = (bytes: number): void => {
    bytesDone += bytes;
    op.progress({ phase: 'importing', bytesDone, bytesTotal: manifest.totalBytes });
  };
  for (const file of manifest.files) {
    op.signal.throwIfAborted();
    if (entry?.name !== `${checkpointDirName(checkpointId)}/${file.path}` || entry.bytes !== file.bytes) {
      throw refusedArchive(
        `${JSON.stringify(entry?.name ?? 'its end')} stands in the place of ${file.path} of its manifest`,
      );
    }
    const path = join(staging, file.path);
    for (const dir of await makeDirs(staging, dirname(path))) {
      dirs.add(dir);
    }
    const handle = await open(path, 'wx', 0o600);
    try {
      await writeContent(handle, file, { source, signal: op.signal, advance });
      await handle.datasync();
    } finally {
      await handle.close();
    }
    await readPadding(source, file.bytes);
    entry = await readTarEntry(source);
  }
  if (entry !== undefined) {
    throw refusedArchive(`${JSON.stringify(entry.name)} is not in its manifest`);
  }
  await writeSynced(join(staging, OWN_FILES.manifest), head.listText);
  if (head.signatureText !== undefined) {
    await writeSynced(join(staging, OWN_FILES.signature), head.signatureText);
  }
  for (const dir of dirs) {
    await syncDir(dir);
  }
}

async function writeContent(
  handle: FileHandle,
  file: ManifestFile,
  { source, signal, advance }: { source: ByteSource; signal: AbortSignal; advance: (bytes: number) => void },
): Promise<void> {
  await handle.truncate(file.bytes);
  for (const chunk of chunksOf(file)) {
    signal.throwIfAborted();
    const bytes = Buffer.from(await source.read(chunk.bytes));
    const same = chunk.digest === undefined ? isZero(bytes) : Buffer.compare(digestOf(bytes), chunk.digest) === 0;
    if (!same) {
      const where = { file: file.path, chunk: chunk.index };
      throw damage('damaged', `chunk ${chunk.index} of ${file.path} in the archive does not match its manifest`, where);
    }
    if (chunk.digest !== undefined) {
      await writeAll(handle, bytes, chunk.offset);
    }
    advance(chunk.bytes);
  }
}

/** @returns every directory between the two, the lower one included */
async function makeDirs(top: string, dir: string): Promise<string[]> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const dirs: string[] = [];
  for (let current = dir; current.length > top.length; current = dirname(current)) {
    dirs.push(current);
  }
  return dirs;
}

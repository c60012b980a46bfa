/*
 * An exported archive becomes a checkpoint directory. Nobody vouches for an archive but its signature, so the rules are
 * those of a fetch: manifest, metadata and signature first, all of it checked before a file is made; then exactly the
 * files of the manifest, in its order, every chunk compared before it is written; the directory gets its name last.
 */
import { mkdir, open, readdir, rename, rm, statfs, type FileHandle } from 'node:fs/promises';
import { createZstdDecompress, constants } from 'node:zlib';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { checkpointDirName, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Manifest, ManifestFile } from '../core/checkpoint/manifest.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { readArchiveHead, refusedArchive, type ArchiveHead } from './archive-head.ts';
import { ByteSource } from './byte-source.ts';
import { chunksOf } from './chunk-list.ts';
import { isZero } from './chunk-jobs.ts';
import { digestOf } from './digest.ts';
import { errnoOf, mapDiskFull, syncDir, writeAll, writeSynced } from './files.ts';
import { committedRoot } from './metadata.ts';
import { readPadding, readTarEntry, type TarEntry } from './tar.ts';
import { damage } from './verify.ts';

const SPARE_BYTES = 8 * 2 ** 20;
const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
/** 128 MiB, the most that `zstd --long` asks for. */
const ZSTD_WINDOW_LOG = 27;

export interface ImportRequest {
  /** the archive, plain or as one zstd stream */
  readonly stream: AsyncIterable<Uint8Array>;
  /** the directory of checkpoints: the new one gets its usual name there */
  readonly checkpointsDir: string;
  readonly op: Op;
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
  const source = await plainSource(request.stream);
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
    const staging = join(checkpointsDir, `.import-${process.pid}-${checkpointId}`);
    await rm(staging, { recursive: true, force: true });
    try {
      await checkRoom(checkpointsDir, manifest);
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

/** Looks for zstd by its magic number, so that a pipe needs no name. */
async function plainSource(stream: AsyncIterable<Uint8Array>): Promise<ByteSource> {
  const source = new ByteSource(stream);
  if (Buffer.compare(await source.peek(ZSTD_MAGIC.length), ZSTD_MAGIC) !== 0) {
    return source;
  }
  const params = { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG };
  const packed = Readable.from(source.remaining(), { objectMode: false });
  const plain = createZstdDecompress({ params });
  packed.on('error', (error) => plain.destroy(error));
  return new ByteSource(packed.pipe(plain) as AsyncIterable<Uint8Array>);
}

/** What zlib throws is about the archive. */
function ofArchive(error: unknown): unknown {
  const code = errnoOf(error) ?? '';
  return code.startsWith('ZSTD_') || code.startsWith('Z_') || code === 'ERR_STREAM_PREMATURE_CLOSE'
    ? new KybernateError('CheckpointCorrupt', `the archive cannot be decompressed: ${messageOf(error)}`, {
        cause: error,
      })
    : error;
}

/** @throws InvalidInput another checkpoint, or a directory that somebody else is making, has this name */
async function isThere(path: string, root: string): Promise<boolean> {
  const present = await committedRoot(path);
  if (present === root) {
    return true;
  }
  if (present !== undefined) {
    throw new KybernateError('InvalidInput', `${path} is another checkpoint of the same id; nothing was imported`, {
      details: { present, imported: root },
    });
  }
  return false;
}

async function checkRoom(dir: string, manifest: Manifest): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  let needed = SPARE_BYTES;
  for (const file of manifest.files) {
    for (const { digest, bytes } of chunksOf(file)) {
      needed += digest === undefined ? 0 : bytes;
    }
  }
  if (bavail * bsize < needed) {
    const message = `${dir} has ${bavail * bsize} bytes free; the checkpoint needs ${needed}; nothing was written`;
    throw new KybernateError('DiskFull', message, { details: { dir, freeBytes: bavail * bsize, neededBytes: needed } });
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

async function renameIntoPlace(staging: string, path: string): Promise<void> {
  try {
    await rename(staging, path);
  } catch (error) {
    if (errnoOf(error) === 'ENOTEMPTY' || errnoOf(error) === 'EEXIST') {
      const message = `${path} is being made by somebody else, or was left half-made: remove it with \`kybernate rm\``;
      throw new KybernateError('InvalidInput', message, { details: { path }, cause: error });
    }
    throw error;
  }
  await syncDir(dirname(path));
}

/** What imports left that were killed. */
async function removeLeftovers(checkpointsDir: string): Promise<void> {
  for (const name of await readdir(checkpointsDir)) {
    const pid = /^\.import-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) {
      await rm(join(checkpointsDir, name), { recursive: true, force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === 'EPERM';
  }
}

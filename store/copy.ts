/* A copy of a checkpoint that is open for reading: whole files, ranges of them, or pages of a process. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CRIU_DIR, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest, type Manifest, type ManifestFile } from '../core/checkpoint/manifest.ts';
import { decodePagemap, isInPagesFile, type Pagemap } from '../core/checkpoint/pagemap.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { chunksOf, type Chunk } from './chunk-list.ts';
import { isZero } from './chunk-jobs.ts';
import { digestOf } from './digest.ts';
import { errnoOf } from './files.ts';
import { merkleRoot } from './merkle.ts';
import { parseMetadata } from './metadata.ts';
import { readChunks } from './read-chunks.ts';
import { damage } from './verify.ts';

export interface Range {
  readonly offset: number;
  readonly bytes: number;
}

/** Both the directory on a node and what is in a store; `close` lets go of what it holds. */
export interface CheckpointCopy {
  readonly checkpointId: string;
  readonly manifest: Manifest;
  /** texts of a node's manifest.json, metadata.json and signature.json, byte for byte */
  readonly listText: Uint8Array;
  readonly metadataText: string;
  readonly signatureText: string | undefined;
  /**
   * The bytes of a file, or of a range that lies in it, in order; every chunk is checked. Each piece is valid until the
   * next one is asked for.
   * @throws CheckpointCorrupt naming file and chunk
   */
  read(file: ManifestFile, range?: Range): AsyncIterable<Uint8Array>;
  close(): Promise<void>;
}

/**
 * The copy in a checkpoint directory.
 * @throws CheckpointNotFound no committed checkpoint is there; CheckpointCorrupt
 */
export async function openDirectoryCopy(dir: string, op: Op): Promise<CheckpointCopy> {
  const metadataText = await readText(join(dir, METADATA_FILE));
  const listText = await readText(join(dir, OWN_FILES.manifest));
  if (metadataText === undefined || listText === undefined) {
    throw new KybernateError('CheckpointNotFound', `${dir} is no committed checkpoint`, { details: { path: dir } });
  }
  const manifest = parseManifest(listText, join(dir, OWN_FILES.manifest));
  const metadata = parseMetadata(metadataText, join(dir, METADATA_FILE));
  if (merkleRoot(manifest.files) !== manifest.merkleRoot || manifest.merkleRoot !== metadata.merkleRoot) {
    throw new KybernateError('CheckpointCorrupt', `metadata and manifest of ${dir} do not belong together`);
  }
  return {
    checkpointId: metadata.checkpointId,
    manifest,
    listText: Buffer.from(listText),
    metadataText,
    signatureText: await readText(join(dir, OWN_FILES.signature)),
    read: (file, range) => readDirectory(dir, file, range, op.signal),
    close: () => Promise.resolve(),
  };
}

async function* readDirectory(
  dir: string,
  file: ManifestFile,
  range: Range = { offset: 0, bytes: file.bytes },
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const chunks = [...chunksIn(file, range)];
  if (chunks.length === 0) {
    return;
  }
  for await (const block of readChunks(join(dir, file.path), file.bytes, chunks, signal)) {
    for (const { chunk, bytes } of block) {
      const same = chunk.digest === undefined ? isZero(bytes) : Buffer.compare(digestOf(bytes), chunk.digest) === 0;
      if (!same) {
        const message = `chunk ${chunk.index} of ${join(dir, file.path)} (offset ${chunk.offset}) is damaged`;
        throw damage('damaged', message, { file: file.path, chunk: chunk.index });
      }
      yield clip(bytes, chunk, range);
    }
  }
}

/** Chunks that have bytes of the range. */
export function* chunksIn(file: ManifestFile, { offset, bytes }: Range): Generator<Chunk> {
  for (const chunk of chunksOf(file)) {
    if (chunk.offset >= offset + bytes) {
      return;
    }
    if (chunk.offset + chunk.bytes > offset) {
      yield chunk;
    }
  }
}

/** Of a chunk the part that lies in the range. */
export function clip(raw: Uint8Array, chunk: Pick<Chunk, 'offset'>, { offset, bytes }: Range): Uint8Array {
  return raw.subarray(Math.max(0, offset - chunk.offset), Math.max(0, offset + bytes - chunk.offset));
}

/** @throws InvalidInput naming the file; CheckpointNotFound does not say it, the checkpoint is there */
export function fileOf(copy: Pick<CheckpointCopy, 'manifest' | 'checkpointId'>, path: string): ManifestFile {
  const file = copy.manifest.files.find((one) => one.path === path);
  if (file === undefined) {
    throw new KybernateError('InvalidInput', `checkpoint ${copy.checkpointId} has no file ${JSON.stringify(path)}`, {
      details: { checkpointId: copy.checkpointId, path },
    });
  }
  return file;
}

/**
 * Memory of one process as it was captured. Only the chunks with these pages are read, and the small pagemap.
 * @param pid in the container
 * @throws InvalidInput the images have no such process, or not every page of the range
 */
export async function* readMemory(
  copy: CheckpointCopy,
  { pid, address, bytes }: { readonly pid: number; readonly address: bigint; readonly bytes: number },
): AsyncGenerator<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const piece of copy.read(fileOf(copy, `${CRIU_DIR}/pagemap-${pid}.img`))) {
    parts.push(Uint8Array.from(piece));
  }
  const pagemap = decodePagemap(Buffer.concat(parts));
  const pages = fileOf(copy, `${CRIU_DIR}/pages-${pagemap.pagesId}.img`);
  for (const range of rangesOf(pagemap, pages.bytes, { pid, address, bytes })) {
    yield* copy.read(pages, range);
  }
}

/** Where in the page image the memory lies, joined where it is in one piece. */
function rangesOf(
  { entries }: Pagemap,
  pagesFileBytes: number,
  { pid, address, bytes }: { readonly pid: number; readonly address: bigint; readonly bytes: number },
): Range[] {
  const inFile = entries.filter(isInPagesFile);
  const pageBytes =
    pagesFileBytes /
    Math.max(
      1,
      inFile.reduce((sum, { nrPages }) => sum + nrPages, 0),
    );
  const ranges: Range[] = [];
  let next = address;
  let offset = 0;
  const end = address + BigInt(bytes);
  for (const { vaddr, nrPages } of inFile) {
    const entryBytes = nrPages * pageBytes;
    const entryEnd = vaddr + BigInt(entryBytes);
    if (next < end && next >= vaddr && next < entryEnd) {
      const until = end < entryEnd ? end : entryEnd;
      ranges.push({ offset: offset + Number(next - vaddr), bytes: Number(until - next) });
      next = until;
    }
    offset += entryBytes;
  }
  if (next < end) {
    const message = `process ${pid} has no captured page at 0x${next.toString(16)}: it is not mapped there, or its content lies in a file`;
    throw new KybernateError('InvalidInput', message, { details: { pid, address: `0x${next.toString(16)}` } });
  }
  return ranges;
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') {
      return undefined;
    }
    throw error;
  }
}

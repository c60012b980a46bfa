/*
 * A checkpoint as one stream: a tar archive that any tar unpacks to a checkpoint directory. What fixes every byte comes
 * first, so that a reader refuses before it writes anything: manifest.json, metadata.json, signature.json where there is
 * one, then the files in the order of the manifest. Every chunk is checked before it goes out.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checkpointDirName, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest, type Manifest, type ManifestFile } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { chunksOf } from './chunk-list.ts';
import { isZero } from './describe.ts';
import { digestOf } from './digest.ts';
import { errnoOf } from './files.ts';
import { merkleRoot } from './merkle.ts';
import { parseMetadata } from './metadata.ts';
import { readChunks } from './read-chunks.ts';
import { padding, TAR_END, tarHeader } from './tar.ts';
import { damage } from './verify.ts';

/** A copy of a checkpoint that can be read from its beginning to its end. */
export interface CheckpointCopy {
  readonly checkpointId: string;
  readonly manifest: Manifest;
  /** text of manifest.json of a node, metadata.json and signature.json, byte for byte */
  readonly listText: Uint8Array;
  readonly metadataText: string;
  readonly signatureText: string | undefined;
  /**
   * The bytes of a file in order, every chunk checked; each piece is valid until the next one is asked for.
   * @throws CheckpointCorrupt naming file and chunk
   */
  readFile(file: ManifestFile): AsyncIterable<Uint8Array>;
}

/** The archive in pieces; each is valid until the next one is asked for. */
export async function* exportCheckpoint(copy: CheckpointCopy, op: Op): AsyncGenerator<Uint8Array> {
  const { checkpointId, manifest, listText, metadataText, signatureText } = copy;
  const { createdAt } = parseMetadata(metadataText, METADATA_FILE);
  const mtimeS = Math.max(0, Math.floor(Date.parse(createdAt) / 1000)) || 0;
  const header = (path: string, bytes: number): Uint8Array =>
    tarHeader({ name: `${checkpointDirName(checkpointId)}/${path}`, bytes, mtimeS });
  const own: Array<[path: string, content: Uint8Array]> = [
    [OWN_FILES.manifest, listText],
    [METADATA_FILE, Buffer.from(metadataText)],
    ...(signatureText === undefined
      ? []
      : [[OWN_FILES.signature, Buffer.from(signatureText)] satisfies [string, Buffer]]),
  ];
  for (const [path, content] of own) {
    yield header(path, content.length);
    yield content;
    yield padding(content.length);
  }
  let bytesDone = 0;
  for (const file of manifest.files) {
    op.signal.throwIfAborted();
    yield header(file.path, file.bytes);
    for await (const piece of copy.readFile(file)) {
      yield piece;
      bytesDone += piece.length;
      op.progress({ phase: 'exporting', bytesDone, bytesTotal: manifest.totalBytes });
    }
    yield padding(file.bytes);
  }
  yield TAR_END;
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
    readFile: (file) => readChecked(dir, file, op.signal),
  };
}

async function* readChecked(dir: string, file: ManifestFile, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  if (file.bytes === 0) {
    return;
  }
  for await (const block of readChunks(join(dir, file.path), file.bytes, chunksOf(file), signal)) {
    for (const { chunk, bytes } of block) {
      const same = chunk.digest === undefined ? isZero(bytes) : Buffer.compare(digestOf(bytes), chunk.digest) === 0;
      if (!same) {
        const message = `chunk ${chunk.index} of ${join(dir, file.path)} (offset ${chunk.offset}) is damaged`;
        throw damage('damaged', message, { file: file.path, chunk: chunk.index });
      }
      yield bytes;
    }
  }
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

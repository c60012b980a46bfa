/*
 * The beginning of an exported archive: manifest, metadata, signature. What they say fixes every byte that follows, so all
 * of it is checked here, before anything is written; sizes are bounded, for nothing is known yet of who wrote them.
 */
import { checkpointDirName, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest, type Manifest } from '../core/checkpoint/manifest.ts';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { ByteSource } from './byte-source.ts';
import { hexDigestOf } from './digest.ts';
import { merkleRoot } from './merkle.ts';
import { parseMetadata } from './metadata.ts';
import { readPadding, readTarEntry, type TarEntry } from './tar.ts';

/** A manifest of 700 GB. It is held in memory before anything of it is known. */
const MAX_MANIFEST_BYTES = 256 * 2 ** 20;
const MAX_METADATA_BYTES = 16 * 2 ** 20;
const MAX_SIGNATURE_BYTES = 65_536;
/** A checkpoint has hundreds: more would only fill the disk with names. */
const MAX_FILES = 100_000;

export interface ArchiveHead {
  readonly checkpointId: string;
  readonly manifest: Manifest;
  readonly listText: Uint8Array;
  readonly metadataText: string;
  readonly signatureText: string | undefined;
  /** digest of the text of metadata.json */
  readonly metadataDigest: string;
  readonly filesDigest: string;
}

/**
 * Manifest, metadata and signature, and the entry behind them.
 * @throws CheckpointCorrupt
 */
export async function readArchiveHead(source: ByteSource): Promise<{ head: ArchiveHead; first: TarEntry | undefined }> {
  const entry = await readTarEntry(source);
  const name = /^checkpoint-([^/]+)\/manifest\.json$/.exec(entry?.name ?? '');
  if (entry === undefined || name?.[1] === undefined) {
    throw refusedArchive(`it begins with ${JSON.stringify(entry?.name ?? 'nothing')} instead of a manifest`);
  }
  const checkpointId = checkedId(name[1]);
  const listText = await readWhole(source, entry, MAX_MANIFEST_BYTES);
  const manifest = parseManifest(new TextDecoder().decode(listText), entry.name);
  if (manifest.files.length > MAX_FILES || merkleRoot(manifest.files) !== manifest.merkleRoot) {
    throw refusedArchive(
      manifest.files.length > MAX_FILES
        ? `it has ${manifest.files.length} files, more than ${MAX_FILES}`
        : 'the Merkle root of its manifest does not match',
    );
  }
  const prefix = `${checkpointDirName(checkpointId)}/`;
  const second = await readTarEntry(source);
  if (second?.name !== `${prefix}${METADATA_FILE}`) {
    throw refusedArchive('no metadata follows its manifest');
  }
  const metadataBytes = await readWhole(source, second, MAX_METADATA_BYTES);
  const metadataText = new TextDecoder('utf-8', { ignoreBOM: true }).decode(metadataBytes);
  const metadata = parseMetadata(metadataText, second.name);
  const isText = Buffer.compare(Buffer.from(metadataText), metadataBytes) === 0;
  if (!isText || metadata.checkpointId !== checkpointId || metadata.merkleRoot !== manifest.merkleRoot) {
    throw refusedArchive('its metadata are not of its manifest');
  }
  let first = await readTarEntry(source);
  let signatureText: string | undefined;
  if (first?.name === `${prefix}${OWN_FILES.signature}`) {
    signatureText = new TextDecoder().decode(await readWhole(source, first, MAX_SIGNATURE_BYTES));
    first = await readTarEntry(source);
  }
  const digests = { metadataDigest: hexDigestOf(metadataBytes), filesDigest: hexDigestOf(listText) };
  return { head: { checkpointId, manifest, listText, metadataText, signatureText, ...digests }, first };
}

function checkedId(text: string): string {
  try {
    return parseCheckpointId(text);
  } catch (error) {
    throw isKybernateError(error, 'InvalidInput')
      ? refusedArchive(`its name is no checkpoint id: ${error.message}`)
      : error;
  }
}

async function readWhole(source: ByteSource, { name, bytes }: TarEntry, max: number): Promise<Uint8Array> {
  if (bytes > max) {
    throw refusedArchive(`${name} has ${bytes} bytes, more than ${max}`);
  }
  const content = Uint8Array.from(await source.read(bytes));
  await readPadding(source, bytes);
  return content;
}

export function refusedArchive(why: string): KybernateError {
  return new KybernateError('CheckpointCorrupt', `the archive was refused: ${why}; nothing was written`);
}

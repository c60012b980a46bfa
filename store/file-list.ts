/* The list of files of a published checkpoint: the node's manifest.json, sealed where the checkpoint is encrypted. */
import {
  parseManifest,
  type Manifest,
  type PublishedManifest,
  type StoredManifest,
} from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import type { Reader } from './backend/backend.ts';
import { openObject } from './crypto/sealed-object.ts';
import { hexDigestOf } from './digest.ts';
import { fileListKey, fileListName } from './keys.ts';
import { merkleRoot } from './merkle.ts';

export interface FileList {
  readonly manifest: Manifest;
  /** byte for byte the node's manifest.json */
  readonly listText: Uint8Array;
}

/**
 * Tells this publication from others of the same id, in the names of objects beside it: its Merkle root, and of an
 * encrypted one, about which names must tell nothing, the digest of its sealed list.
 */
export function publicationDigest(manifest: StoredManifest): string {
  return manifest.encryption?.list.digest ?? ('merkleRoot' in manifest ? manifest.merkleRoot : '');
}

/** The object of the list, as it lies in the store. */
export function fileListObject(published: PublishedManifest): { readonly key: string; readonly bytes: number } {
  const { digest, bytes } = published.encryption?.list ?? published.files;
  return { key: fileListKey(published.checkpointId, digest), bytes };
}

/**
 * Reads the list and compares it with the manifest.
 * @throws CheckpointCorrupt when it is missing or not the manifest's; KeyUnavailable
 */
export async function readFileList(
  backend: Reader,
  published: PublishedManifest,
  signal: AbortSignal,
): Promise<FileList> {
  const { checkpointId, encryption, files } = published;
  const { key } = fileListObject(published);
  const where = `${backend.url}/${key}`;
  const stored = await backend.get(key, { signal });
  if (stored === undefined) {
    throw damaged('missing', key, `${where} is missing: the checkpoint cannot be read`);
  }
  if (hexDigestOf(stored) !== (encryption?.list ?? files).digest) {
    throw damaged('damaged', key, `${where} is damaged: its digest does not match the manifest`);
  }
  const { keys } = backend;
  const isSealed = encryption !== undefined && keys !== undefined;
  const object = { bytes: stored, where };
  const listText = isSealed ? await openObject(keys, fileListName(checkpointId), object, signal) : stored;
  if (hexDigestOf(listText) !== files.digest) {
    throw damaged('damaged', key, `${where} is damaged: what it decrypts to is not what the manifest names`);
  }
  const manifest = parseManifest(new TextDecoder().decode(listText), where);
  if (manifest.merkleRoot !== published.merkleRoot || merkleRoot(manifest.files) !== published.merkleRoot) {
    throw damaged('damaged', key, `${where} is damaged: its Merkle root is not the manifest's`);
  }
  return { manifest, listText };
}

function damaged(kind: 'missing' | 'damaged', object: string, message: string): KybernateError {
  return new KybernateError('CheckpointCorrupt', message, { details: { kind, object } });
}

/* A published manifest, sealed: what a deletion needs stays beside the sealed part, which is bound to it. */
import {
  CIPHER_NAME,
  ENCRYPTED_MANIFEST_VERSION,
  manifestContext,
  type EncryptedManifest,
  type EncryptionInfo,
} from '../../core/checkpoint/encryption.ts';
import {
  encodePublishedManifest,
  parsePublishedManifest,
  type PublishedManifest,
  type StoredManifest,
} from '../../core/checkpoint/manifest.ts';
import { KybernateError } from '../../core/errors.ts';
import { ADDRESS_POINTER_KEY, wrappedKeyPrefix } from '../keys.ts';
import type { Sealer, StoreKeys } from './store-keys.ts';

/** @param info what the chunks and the file list were sealed with */
export function sealManifest(
  sealer: Sealer,
  manifest: PublishedManifest,
  info: Pick<EncryptionInfo, 'wrappedBy' | 'addressKey' | 'dataKeys' | 'list'>,
): EncryptedManifest {
  const { checkpointId, publishedAt, totalBytes, packs } = manifest;
  const clear = {
    version: ENCRYPTED_MANIFEST_VERSION,
    checkpointId,
    publishedAt,
    totalBytes,
    packs,
    encryption: { cipher: CIPHER_NAME, contentKey: sealer.keyId, ...info },
  } as const;
  const text = Buffer.from(encodePublishedManifest(manifest));
  return { ...clear, content: Buffer.from(sealer.seal(manifestContext(clear), text)).toString('base64') };
}

/**
 * @param keys absent: this process has none
 * @throws KeyUnavailable naming the key; CheckpointCorrupt naming `where`
 */
export async function openManifest(
  keys: StoreKeys | undefined,
  stored: StoredManifest,
  where: string,
  signal: AbortSignal,
): Promise<PublishedManifest> {
  if (stored.version !== ENCRYPTED_MANIFEST_VERSION) {
    return stored;
  }
  const { encryption, content } = stored;
  if (keys === undefined) {
    throw new KybernateError(
      'KeyUnavailable',
      `${where} is encrypted, its keys are wrapped by key ${encryption.wrappedBy} or a later one; this process has no key`,
      { details: { wrappedBy: encryption.wrappedBy } },
    );
  }
  const opener = await keys.dataKey(encryption.contentKey, signal);
  const plain = opener.open(manifestContext(stored), Buffer.from(content, 'base64'));
  if (plain === undefined) {
    throw new KybernateError('CheckpointCorrupt', `${where} is damaged: it does not decrypt with its key`);
  }
  const manifest = parsePublishedManifest(Buffer.from(plain).toString('utf8'), where);
  if (manifest.checkpointId !== stored.checkpointId) {
    throw new KybernateError('CheckpointCorrupt', `${where} holds the manifest of ${manifest.checkpointId}`);
  }
  return { ...manifest, encryption };
}

/** Prefixes of the objects that hold the keys of a checkpoint, wrapped; none for a plain one. */
export function keyPrefixesOf({ encryption }: StoredManifest): string[] {
  if (encryption === undefined) {
    return [];
  }
  const { addressKey, contentKey, dataKeys } = encryption;
  return [ADDRESS_POINTER_KEY, ...[...new Set([addressKey, contentKey, ...dataKeys])].map(wrappedKeyPrefix)];
}

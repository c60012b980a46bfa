/*
 * What an encrypted store holds beside sealed bytes (docs/encryption.md): manifests of version 2, wrapped keys, and the
 * contexts that bind sealed bytes to their place. A reader of version 1 refuses a manifest of version 2 by its version.
 *
 *   sealed object   8 bytes "KYBSEAL" and the version, 1; 8 bytes id of the data key; sealed bytes
 *   sealed bytes    12 bytes nonce, ciphertext, 16 bytes tag (AES-256-GCM)
 */
import * as z from 'zod';
import { checkpointId } from '../contract/common.ts';

export const ENCRYPTED_MANIFEST_VERSION = 2;
export const CIPHER_NAME = 'aes-256-gcm';
export const KEY_BYTES = 32;
export const NONCE_BYTES = 12;
export const TAG_BYTES = 16;
/** What sealing adds to the bytes. */
export const SEAL_BYTES = NONCE_BYTES + TAG_BYTES;
/** Ids of data keys and address keys; they fill a field of 8 bytes in a pack's footer. */
export const KEY_ID_BYTES = 8;

const SEALED_OBJECT_MAGIC = new Uint8Array([0x4b, 0x59, 0x42, 0x53, 0x45, 0x41, 0x4c, 1]);

export const keyId = z.string().regex(/^[0-9a-f]{16}$/, 'a key id: 16 hexadecimal digits');
export const wrappingKeyId = z
  .string()
  .regex(/^[a-z0-9][a-z0-9-]{0,63}$/, 'an id of a key-encryption key: lower case letters, digits, hyphens');

const digest = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);

export const encryptionInfo = z.strictObject({
  cipher: z.literal(CIPHER_NAME),
  /** key-encryption key of the writer; a rotation does not change it here, see `keys/` */
  wrappedBy: wrappingKeyId,
  /** from digests to addresses in the packs */
  addressKey: keyId,
  /** seals `content` and the file list */
  contentKey: keyId,
  /** of all packs, in order */
  dataKeys: z.array(keyId),
  /** digest and size of the file list as a sealed object */
  list: z.strictObject({ digest, bytes: count }),
});
export type EncryptionInfo = z.output<typeof encryptionInfo>;

/** manifest.json of an encrypted checkpoint: what a deletion and a tier need stays readable without a key. */
export const encryptedManifest = z.strictObject({
  version: z.literal(ENCRYPTED_MANIFEST_VERSION),
  checkpointId,
  /** ISO time */
  publishedAt: z.string(),
  totalBytes: count,
  packs: z.array(z.tuple([z.string().regex(/^[0-9a-f]{32}$/), count])),
  encryption: encryptionInfo,
  /** base64 of the sealed text of the manifest of version 1 */
  content: z.base64(),
});
export type EncryptedManifest = z.output<typeof encryptedManifest>;

/** `keys/address.json`: the address key that writers use. */
export const addressPointer = z.strictObject({ version: z.literal(1), addressKey: keyId });

/** `keys/<key id>/<id of the key-encryption key>.json`: one wrapped copy of one key; never changed. */
export const wrappedKey = z.strictObject({
  version: z.literal(1),
  key: keyId,
  purpose: z.enum(['data', 'address']),
  wrappedBy: wrappingKeyId,
  /** base64 */
  wrapped: z.base64(),
});
export type WrappedKey = z.output<typeof wrappedKey>;
export type KeyPurpose = WrappedKey['purpose'];

/** Binds a sealed chunk to the address, and so to the content, that its index entry promises. */
export function chunkContext(address: Uint8Array, rawBytes: number, codec: string): Uint8Array {
  return joined(`kybernate chunk 1\n${rawBytes} ${codec}\n`, address);
}

/** Binds a sealed object to its key in the store. */
export function objectContext(key: string): Uint8Array {
  return joined(`kybernate object 1\n${key}\n`);
}

/** Binds the sealed part of a manifest to all that stands beside it in clear. */
export function manifestContext(manifest: Omit<EncryptedManifest, 'content'>): Uint8Array {
  const { checkpointId: id, publishedAt, totalBytes, packs, encryption } = manifest;
  const { cipher, wrappedBy, addressKey, contentKey, dataKeys, list } = encryption;
  const clear = [
    id,
    publishedAt,
    totalBytes,
    packs,
    cipher,
    wrappedBy,
    addressKey,
    contentKey,
    dataKeys,
    list.digest,
    list.bytes,
  ];
  return joined(`kybernate manifest 2\n${JSON.stringify(clear)}\n`);
}

export function encodeSealedObject(dataKeyId: string, sealed: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(SEALED_OBJECT_MAGIC.length + KEY_ID_BYTES + sealed.length);
  bytes.set(SEALED_OBJECT_MAGIC);
  bytes.set(keyIdBytes(dataKeyId), SEALED_OBJECT_MAGIC.length);
  bytes.set(sealed, SEALED_OBJECT_MAGIC.length + KEY_ID_BYTES);
  return bytes;
}

/** undefined when the bytes are no sealed object. */
export function decodeSealedObject(bytes: Uint8Array): { dataKeyId: string; sealed: Uint8Array } | undefined {
  const start = SEALED_OBJECT_MAGIC.length + KEY_ID_BYTES;
  if (bytes.length < start + SEAL_BYTES || SEALED_OBJECT_MAGIC.some((byte, index) => bytes[index] !== byte)) {
    return undefined;
  }
  return { dataKeyId: keyIdText(bytes.subarray(SEALED_OBJECT_MAGIC.length, start)), sealed: bytes.subarray(start) };
}

/** @param id 16 hexadecimal digits */
export function keyIdBytes(id: string): Uint8Array {
  return Uint8Array.from({ length: KEY_ID_BYTES }, (_, index) =>
    Number.parseInt(id.slice(index * 2, index * 2 + 2), 16),
  );
}

export function keyIdText(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function joined(head: string, tail: Uint8Array = new Uint8Array()): Uint8Array {
  const text = new TextEncoder().encode(head);
  const bytes = new Uint8Array(text.length + tail.length);
  bytes.set(text);
  bytes.set(tail, text.length);
  return bytes;
}

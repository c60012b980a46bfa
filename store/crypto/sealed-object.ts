/* Whole objects of a store, sealed: they name the data key that opens them. */
import { decodeSealedObject, encodeSealedObject, objectContext } from '../../core/checkpoint/encryption.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Sealer, StoreKeys } from './store-keys.ts';

/** @param name what the object is, and of which checkpoint: bytes that are put in another's place are found */
export function sealObject(sealer: Sealer, name: string, plain: Uint8Array): Uint8Array {
  return encodeSealedObject(sealer.keyId, sealer.seal(objectContext(name), plain));
}

/** @throws CheckpointCorrupt naming `where`; KeyUnavailable */
export async function openObject(
  keys: StoreKeys,
  name: string,
  object: { readonly bytes: Uint8Array; readonly where: string },
  signal: AbortSignal,
): Promise<Uint8Array> {
  const parts = decodeSealedObject(object.bytes);
  const opener = parts === undefined ? undefined : await keys.dataKey(parts.dataKeyId, signal);
  const plain = parts === undefined ? undefined : opener?.open(objectContext(name), parts.sealed);
  if (plain === undefined) {
    throw new KybernateError('CheckpointCorrupt', `${object.where} is damaged: it cannot be decrypted as ${name}`);
  }
  return plain;
}

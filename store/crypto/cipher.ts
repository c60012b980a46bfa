/* AES-256-GCM, keyed addresses and ids of keys. Nothing here touches a store. */
import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject } from 'node:crypto';
import { Blake3Hasher } from '@napi-rs/blake-hash';
import {
  CIPHER_NAME,
  KEY_ID_BYTES,
  NONCE_BYTES,
  SEAL_BYTES,
  TAG_BYTES,
  type KeyPurpose,
} from '../../core/checkpoint/encryption.ts';
import { KybernateError } from '../../core/errors.ts';
import { toHex } from '../digest.ts';
import type { AddressKey, Opener, Sealer } from './store-keys.ts';

/**
 * One checkpoint has 2^25 chunks at most. GCM's bounds hold far beyond: 2^32 messages of 2^13 blocks leave an attacker
 * an advantage below 2^-36.
 */
const MAX_SEALS = 2 ** 32;

/** The id follows from the key, so a wrapped copy that was put in another's place is found when it is unwrapped. */
export function keyIdOf(purpose: KeyPurpose | 'wrapping', key: Uint8Array): string {
  const id = Blake3Hasher.deriveKey(`kybernate 1 id of a ${purpose} key`, Buffer.from(key));
  return toHex(id.subarray(0, KEY_ID_BYTES));
}

/**
 * Seals with a key that nobody has sealed with before. The nonce is a counter: it cannot repeat, where a random one of
 * 96 bits would have to be limited to 2^32 of them. Whoever goes on after a crash makes a new key.
 */
export function createSealer(keyId: string, key: Uint8Array): Sealer {
  const secret = createSecretKey(key);
  let sealed = 0;
  return {
    keyId,
    seal(context, plain, into = Buffer.allocUnsafeSlow(plain.length + SEAL_BYTES)) {
      if (sealed === MAX_SEALS) {
        throw new KybernateError('Internal', `data key ${keyId} has sealed ${MAX_SEALS} times: it is used up`);
      }
      const nonce = Buffer.alloc(NONCE_BYTES);
      nonce.writeUIntBE(sealed, NONCE_BYTES - 6, 6);
      sealed += 1;
      const cipher = createCipheriv(CIPHER_NAME, secret, nonce, { authTagLength: TAG_BYTES });
      cipher.setAAD(context, { plaintextLength: plain.length });
      into.set(nonce);
      into.set(cipher.update(plain), NONCE_BYTES);
      cipher.final();
      into.set(cipher.getAuthTag(), NONCE_BYTES + plain.length);
      return into.subarray(0, plain.length + SEAL_BYTES);
    },
  };
}

export function createOpener(keyId: string, key: Uint8Array): Opener {
  const secret = createSecretKey(key);
  return { keyId, open: (context, sealed) => openSealed(secret, context, sealed) };
}

function openSealed(secret: KeyObject, context: Uint8Array, sealed: Uint8Array): Uint8Array | undefined {
  if (sealed.length < NONCE_BYTES + TAG_BYTES) {
    return undefined;
  }
  const nonce = sealed.subarray(0, NONCE_BYTES);
  const body = sealed.subarray(NONCE_BYTES, sealed.length - TAG_BYTES);
  const decipher = createDecipheriv(CIPHER_NAME, secret, nonce, { authTagLength: TAG_BYTES });
  decipher.setAAD(context, { plaintextLength: body.length });
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
  const plain = decipher.update(body);
  try {
    decipher.final();
    return plain;
  } catch {
    // The only thing that `final` tells: the tag does not match.
    return undefined;
  }
}

/** BLAKE3 keyed, over the digest and not again over the content: a pseudo-random function of a collision-free name. */
export function createAddressKey(keyId: string, key: Uint8Array): AddressKey {
  const hasher = Blake3Hasher.newKeyed(Buffer.from(key));
  return {
    keyId,
    addressOf(digest) {
      hasher.reset();
      hasher.update(Buffer.from(digest.buffer, digest.byteOffset, digest.byteLength));
      return hasher.digestBuffer();
    },
  };
}

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { chunkContext, objectContext, SEAL_BYTES } from '../../core/checkpoint/encryption.ts';
import { digestOf, toHex } from '../digest.ts';
import { createAddressKey, createOpener, createSealer, keyIdOf } from './cipher.ts';

const key = randomBytes(32);
const context = objectContext('checkpoints/ck-1/files');
const plain = Buffer.from('the memory of a container');

describe('a sealer', () => {
  it('makes bytes that its opener opens, longer by nonce and tag', () => {
    const sealed = createSealer('k', key).seal(context, plain);

    expect(sealed.length).toBe(plain.length + SEAL_BYTES);
    expect(createOpener('k', key).open(context, sealed)).toEqual(plain);
    expect(Buffer.from(sealed).includes(plain)).toBe(false);
  });

  it('never uses a nonce twice', () => {
    const sealer = createSealer('k', key);

    const nonces = Array.from({ length: 1000 }, () => toHex(sealer.seal(context, plain).subarray(0, 12)));

    expect(new Set(nonces).size).toBe(1000);
  });

  it('seals no bytes at all, too', () => {
    const sealed = createSealer('k', key).seal(context, new Uint8Array());

    expect(createOpener('k', key).open(context, sealed)).toEqual(Buffer.alloc(0));
  });
});

describe('an opener', () => {
  it('finds every flipped bit, of nonce, content and tag', () => {
    const sealed = createSealer('k', key).seal(context, plain);
    const opener = createOpener('k', key);

    for (let bit = 0; bit < sealed.length * 8; bit += 1) {
      const changed = Buffer.from(sealed);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(opener.open(context, changed)).toBeUndefined();
    }
  });

  it('finds every length that is cut off', () => {
    const sealed = createSealer('k', key).seal(context, plain);
    const opener = createOpener('k', key);

    for (let length = 0; length < sealed.length; length += 1) {
      expect(opener.open(context, sealed.subarray(0, length))).toBeUndefined();
    }
  });

  it('refuses another key and another context', () => {
    const address = digestOf(plain);
    const sealed = createSealer('k', key).seal(chunkContext(address, plain.length, 'zstd'), plain);
    const opener = createOpener('k', key);

    expect(
      createOpener('k', randomBytes(32)).open(chunkContext(address, plain.length, 'zstd'), sealed),
    ).toBeUndefined();
    expect(opener.open(chunkContext(digestOf(address), plain.length, 'zstd'), sealed)).toBeUndefined();
    expect(opener.open(chunkContext(address, plain.length + 1, 'zstd'), sealed)).toBeUndefined();
    expect(opener.open(chunkContext(address, plain.length, 'none'), sealed)).toBeUndefined();
  });
});

describe('an address key', () => {
  it('gives the same address for the same content, another one than its digest', () => {
    const digest = digestOf(plain);
    const addresses = createAddressKey('a', key);

    const first = addresses.addressOf(digest);
    addresses.addressOf(digestOf(first));

    expect(addresses.addressOf(digest)).toEqual(first);
    expect(createAddressKey('a', key).addressOf(digest)).toEqual(first);
    expect(createAddressKey('b', randomBytes(32)).addressOf(digest)).not.toEqual(first);
    expect(first).not.toEqual(digest);
  });
});

it('the id of a key depends on its purpose and tells nothing of the key', () => {
  expect(keyIdOf('data', key)).toMatch(/^[0-9a-f]{16}$/);
  expect(keyIdOf('data', key)).not.toBe(keyIdOf('address', key));
  expect(toHex(key)).not.toContain(keyIdOf('data', key));
});

/*
 * Chunks of an encrypted store: found by keyed addresses, sealed one by one with the data key of their upload. The context
 * binds a body to address, length and codec; in which pack it lies is not bound, so that a sealed chunk stays the same
 * chunk wherever a copy of it is put.
 */
import { chunkContext, SEAL_BYTES } from '../../core/checkpoint/encryption.ts';
import { DIGEST_BYTES, type PublishedManifest } from '../../core/checkpoint/manifest.ts';
import { KybernateError } from '../../core/errors.ts';
import { MAX_CHUNK_BYTES, type PackEntry, type PackIndex } from '../../core/pack/pack.ts';
import type { Reader } from '../backend/backend.ts';
import type { EncodedChunk } from '../codec.ts';
import { DigestTable } from '../digest-table.ts';
import type { AddressKey, Opener, Sealer } from './store-keys.ts';

/** The addresses of all digests in the table, with the same numbers. */
export function addressesOf(digests: DigestTable, key: AddressKey): DigestTable {
  const addresses = new DigestTable(DIGEST_BYTES, digests.count);
  for (let number = 0; number < digests.count; number += 1) {
    addresses.add(key.addressOf(digests.digestAt(number)));
  }
  return addresses;
}

/**
 * Seals chunks one after the other, in the same memory: each is valid until the next.
 * @param rawBytes length of the chunk before it was compressed
 */
export function chunkSealer(
  sealer: Sealer,
): (address: Uint8Array, chunk: EncodedChunk, rawBytes: number) => EncodedChunk {
  const memory = Buffer.allocUnsafeSlow(MAX_CHUNK_BYTES + SEAL_BYTES);
  return (address, { codec, bytes }, rawBytes) => {
    return { codec, bytes: sealer.seal(chunkContext(address, rawBytes, codec), bytes, memory) };
  };
}

/** The compressed chunk; undefined when it is not the one of this entry. */
export function openChunk(opener: Opener, entry: PackEntry, body: Uint8Array): Uint8Array | undefined {
  return opener.open(chunkContext(entry.digest, entry.rawBytes, entry.codec), body);
}

/** Chunks as the indexes of a checkpoint's packs name them, numbered as in `digests`. @throws KeyUnavailable */
export async function namesInPacks(
  { keys }: Reader,
  { encryption }: PublishedManifest,
  digests: DigestTable,
  signal: AbortSignal,
): Promise<DigestTable> {
  return encryption === undefined || keys === undefined
    ? digests
    : addressesOf(digests, await keys.addressKey(encryption.addressKey, signal));
}

/** What opens the chunks of a pack; nothing for a plain one. @throws KeyUnavailable; CheckpointCorrupt the key is lost */
export async function openerOf(
  { keys, url }: Reader,
  pack: string,
  index: PackIndex | undefined,
  signal: AbortSignal,
): Promise<{ readonly opener?: Opener }> {
  if (index?.dataKey === undefined) {
    return {};
  }
  if (keys === undefined) {
    const message = `pack ${pack} of ${url} is sealed with data key ${index.dataKey}; this process has no key`;
    throw new KybernateError('KeyUnavailable', message, { details: { pack, key: index.dataKey } });
  }
  return { opener: await keys.dataKey(index.dataKey, signal) };
}

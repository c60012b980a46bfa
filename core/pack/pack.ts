/*
 * A pack: chunks of many files in one object, 16 to 64 MiB, readable by range. All integers are little endian.
 *
 *   header   8 bytes   "KYBPACK" and the version, 1
 *   bodies             the chunks as stored, back to back, in the order of the index
 *   index    48 bytes a chunk:
 *              32  digest of the raw chunk (BLAKE3)
 *               4  offset of the body in the pack
 *               4  stored length
 *               4  raw length
 *               1  codec: 0 none, 1 zstd, 2 lz4
 *               3  zero
 *   footer   56 bytes:
 *               4  number of chunks
 *               4  offset of the index in the pack
 *               8  zero; in version 2 the id of the data key that seals the bodies
 *              32  BLAKE3 of header, index and the 16 footer bytes before this field
 *               8  "KYBPEND" and the version: 1, or 2 for an encrypted pack, where address stands for digest
 *
 * `index/<pack id>` is a copy of index and footer. A body is checked by the digest of what it decodes to.
 */
import { KEY_ID_BYTES, keyIdBytes, keyIdText, SEAL_BYTES } from '../checkpoint/encryption.ts';
import { KybernateError } from '../errors.ts';

export const PACK_HEADER = new Uint8Array([0x4b, 0x59, 0x42, 0x50, 0x41, 0x43, 0x4b, 1]);
/** The version follows. */
const END_MAGIC = new Uint8Array([0x4b, 0x59, 0x42, 0x50, 0x45, 0x4e, 0x44]);
const PLAIN_VERSION = 1;
const ENCRYPTED_VERSION = 2;
const NO_KEY = '0'.repeat(2 * KEY_ID_BYTES);
const DIGEST_BYTES = 32;
export const PACK_ENTRY_BYTES = 48;
export const PACK_FOOTER_BYTES = 56;
/** A raw chunk is never longer; a reader may allocate this much for what an index promises. */
export const MAX_CHUNK_BYTES = 262_144;
/** What no codec shrinks is stored as it is, perhaps sealed. */
const MAX_BODY_BYTES = MAX_CHUNK_BYTES + SEAL_BYTES;
export const MAX_PACK_BYTES = 2 ** 31;

export const CODECS = ['none', 'zstd', 'lz4'] as const;
export type Codec = (typeof CODECS)[number];

export interface PackEntry {
  /** in an encrypted pack the keyed address */
  readonly digest: Uint8Array;
  readonly offset: number;
  readonly storedBytes: number;
  readonly rawBytes: number;
  readonly codec: Codec;
}

export interface PackIndex {
  readonly entries: readonly PackEntry[];
  /** size of the whole pack */
  readonly packBytes: number;
  /** id of the data key that seals the bodies; absent: they are plain */
  readonly dataKey?: string;
}

/** BLAKE3, given by the caller: core has no native code. */
export type Hash = (bytes: Uint8Array) => Uint8Array;

/** Where the index begins and how long index and footer are, from the last `PACK_FOOTER_BYTES` of a pack. */
export interface PackTail {
  readonly entries: number;
  readonly indexOffset: number;
  readonly tailBytes: number;
}

/**
 * Index and footer of a pack whose bodies end where the index begins.
 * @param dataKey id of the key that seals the bodies; absent: they are plain
 */
export function encodePackTail(entries: readonly PackEntry[], hash: Hash, dataKey?: string): Uint8Array {
  const tail = new Uint8Array(entries.length * PACK_ENTRY_BYTES + PACK_FOOTER_BYTES);
  const view = new DataView(tail.buffer);
  let at = 0;
  let end = PACK_HEADER.length;
  for (const entry of entries) {
    tail.set(entry.digest, at);
    view.setUint32(at + 32, entry.offset, true);
    view.setUint32(at + 36, entry.storedBytes, true);
    view.setUint32(at + 40, entry.rawBytes, true);
    view.setUint8(at + 44, CODECS.indexOf(entry.codec));
    at += PACK_ENTRY_BYTES;
    end = entry.offset + entry.storedBytes;
  }
  view.setUint32(at, entries.length, true);
  view.setUint32(at + 4, end, true);
  tail.set(keyIdBytes(dataKey ?? NO_KEY), at + 8);
  tail.set(indexHash(tail, hash), at + 16);
  tail.set(END_MAGIC, at + 48);
  tail[at + 55] = dataKey === undefined ? PLAIN_VERSION : ENCRYPTED_VERSION;
  return tail;
}

/**
 * Reads the footer, to learn how much of the pack's end the index takes.
 * @param end at least the last `PACK_FOOTER_BYTES` of a pack
 * @throws CheckpointCorrupt
 */
export function readPackFooter(end: Uint8Array, where: string): PackTail {
  if (end.length < PACK_FOOTER_BYTES) {
    throw corrupt(where, `it has ${end.length} bytes, less than a footer`);
  }
  const at = end.length - PACK_FOOTER_BYTES;
  const version = end[at + 55];
  const known = version === PLAIN_VERSION || version === ENCRYPTED_VERSION;
  if (!known || END_MAGIC.some((byte, index) => end[at + 48 + index] !== byte)) {
    throw corrupt(where, 'it does not end with the mark of a pack of version 1 or 2');
  }
  const view = new DataView(end.buffer, end.byteOffset + at, PACK_FOOTER_BYTES);
  const entries = view.getUint32(0, true);
  return {
    entries,
    indexOffset: view.getUint32(4, true),
    tailBytes: entries * PACK_ENTRY_BYTES + PACK_FOOTER_BYTES,
  };
}

/**
 * Decodes and checks index and footer. Bytes before them are ignored, so a whole pack may be given.
 * @throws CheckpointCorrupt when anything in it is not as it was written
 */
export function decodePackTail(bytes: Uint8Array, hash: Hash, where: string): PackIndex {
  const footer = readPackFooter(bytes, where);
  if (footer.tailBytes > bytes.length) {
    throw corrupt(where, `its index of ${footer.entries} chunks is cut off`);
  }
  const tail = bytes.subarray(bytes.length - footer.tailBytes);
  const footerAt = tail.length - PACK_FOOTER_BYTES;
  const expected = indexHash(tail, hash);
  if (expected.some((byte, index) => tail[footerAt + 16 + index] !== byte)) {
    throw corrupt(where, 'the digest of its index does not match');
  }
  const view = new DataView(tail.buffer, tail.byteOffset, tail.byteLength);
  const entries: PackEntry[] = [];
  let end = PACK_HEADER.length;
  for (let at = 0; at < footerAt; at += PACK_ENTRY_BYTES) {
    const codec = CODECS[view.getUint8(at + 44)];
    const entry = {
      digest: tail.subarray(at, at + DIGEST_BYTES),
      offset: view.getUint32(at + 32, true),
      storedBytes: view.getUint32(at + 36, true),
      rawBytes: view.getUint32(at + 40, true),
    };
    const isLength = entry.rawBytes > 0 && entry.rawBytes <= MAX_CHUNK_BYTES && entry.storedBytes <= MAX_BODY_BYTES;
    if (codec === undefined || entry.offset !== end || !isLength) {
      throw corrupt(where, `the entry of chunk ${at / PACK_ENTRY_BYTES} makes no sense`);
    }
    entries.push({ ...entry, codec });
    end += entry.storedBytes;
  }
  if (end !== footer.indexOffset) {
    throw corrupt(where, 'its chunks do not end where its index begins');
  }
  const dataKey = keyIdText(tail.subarray(footerAt + 8, footerAt + 16));
  if ((tail[footerAt + 55] === ENCRYPTED_VERSION) === (dataKey === NO_KEY)) {
    throw corrupt(where, 'its version and its data key contradict each other');
  }
  const packBytes = footer.indexOffset + footer.tailBytes;
  return dataKey === NO_KEY ? { entries, packBytes } : { entries, packBytes, dataKey };
}

function indexHash(tail: Uint8Array, hash: Hash): Uint8Array {
  const covered = tail.length - PACK_FOOTER_BYTES + 16;
  const bytes = new Uint8Array(PACK_HEADER.length + covered);
  bytes.set(PACK_HEADER);
  bytes.set(tail.subarray(0, covered), PACK_HEADER.length);
  return hash(bytes);
}

function corrupt(where: string, reason: string): KybernateError {
  return new KybernateError('CheckpointCorrupt', `${where} is damaged: ${reason}`);
}

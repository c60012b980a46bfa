/*
 * Compression of single chunks. Synchronous: it runs on the threads of chunk-workers.ts, where Node's asynchronous form
 * would cost another trip to another pool for every chunk (half the speed at 64 KiB).
 */
import { constants, zstdDecompressSync } from 'node:zlib';
import { compressSync, uncompressSync } from 'lz4-napi';
import type { Codec } from '../core/pack/pack.ts';
import { createZstdEncoder, FRAME_SPARE_BYTES, MAX_FRAME_BYTES, type EncodeZstd } from './zstd-encoder.ts';

/** The only level of zstd that is used: at higher ones the processor, not the network, sets the pace. */
export const ZSTD_LEVEL = 1;
/** A frame that asks for a larger window is none of ours and must not make a reader allocate it. */
const ZSTD_WINDOW_LOG = Math.log2(MAX_FRAME_BYTES);
/** Less gain than this is not worth decompressing. */
const MIN_GAIN = 1 / 16;
/** An lz4 body begins with the length of what it decodes to, 32 bits, little endian. */
const LZ4_HEADER_BYTES = 4;
/** `encodeChunk` may need so much more than the chunk has. */
export const ENCODE_SPARE_BYTES = FRAME_SPARE_BYTES;

export interface EncodedChunk {
  readonly codec: Codec;
  readonly bytes: Uint8Array;
}

/** Made at the first chunk: most processes compress nothing. */
let encodeZstd: EncodeZstd | undefined;

/**
 * Writes a chunk into `out` from `at` on, where there is room for it and `ENCODE_SPARE_BYTES`: compressed, or as it is
 * when that does not shrink it.
 */
export function encodeChunk(raw: Uint8Array, codec: Codec, out: Uint8Array, at: number): EncodedChunk {
  if (codec !== 'none') {
    const length = codec === 'zstd' ? zstdEncode(raw, out, at) : lz4Encode(raw, out, at);
    if (length <= raw.length * (1 - MIN_GAIN)) {
      return { codec, bytes: out.subarray(at, at + length) };
    }
  }
  out.set(raw, at);
  return { codec: 'none', bytes: out.subarray(at, at + raw.length) };
}

function zstdEncode(raw: Uint8Array, out: Uint8Array, at: number): number {
  encodeZstd ??= createZstdEncoder(ZSTD_LEVEL);
  return encodeZstd(raw, out, at);
}

function lz4Encode(raw: Uint8Array, out: Uint8Array, at: number): number {
  const bytes = compressSync(Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength));
  const { length } = bytes;
  if (length <= raw.length) {
    out.set(bytes, at);
  }
  release(bytes);
  return length;
}

/**
 * Gives the memory of what the codecs made back, at once: they allocate outside of the heap, where the collector does
 * not see how much there is. The bytes must be nobody else's; a part of a larger memory is left alone.
 */
export function release({ buffer, length }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === length) {
    buffer.transfer(0);
  }
}

/**
 * @param rawBytes length that the index promises; output beyond it is an error, so a hostile body cannot fill memory
 * @returns undefined when the bytes do not decode to that length
 */
export function decodeChunk(codec: Codec, stored: Uint8Array, rawBytes: number): Uint8Array | undefined {
  if (codec === 'none') {
    return stored.length === rawBytes ? stored : undefined;
  }
  const raw = codec === 'zstd' ? zstdDecode(stored, rawBytes) : lz4Decode(stored, rawBytes);
  return raw?.length === rawBytes ? raw : undefined;
}

function zstdDecode(stored: Uint8Array, rawBytes: number): Uint8Array | undefined {
  const params = { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG };
  try {
    return zstdDecompressSync(stored, { chunkSize: Math.max(64, rawBytes), maxOutputLength: rawBytes, params });
  } catch {
    // Only the frame can be wrong here, and the caller names the chunk.
    return undefined;
  }
}

function lz4Decode(stored: Uint8Array, rawBytes: number): Uint8Array | undefined {
  // The library allocates what the header says before it looks at the rest.
  const view = new DataView(stored.buffer, stored.byteOffset, stored.byteLength);
  if (stored.length < LZ4_HEADER_BYTES || view.getUint32(0, true) !== rawBytes) {
    return undefined;
  }
  try {
    return uncompressSync(stored);
  } catch {
    // As above.
    return undefined;
  }
}

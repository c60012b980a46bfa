/*
 * Compression of single chunks. Synchronous: it runs on the threads of chunk-workers.ts, where Node's asynchronous form
 * would cost another trip to another pool for every chunk (half the speed at 64 KiB).
 */
import { compressSync, uncompressSync } from 'lz4-napi';
import type { Codec } from '../core/pack/pack.ts';
import { createZstdDecoder, createZstdEncoder, FRAME_SPARE_BYTES, type DecodeZstd, type EncodeZstd } from './zstd.ts';

/** The only level of zstd that is used: at higher ones the processor, not the network, sets the pace. */
export const ZSTD_LEVEL = 1;
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
let decodeZstd: DecodeZstd | undefined;

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
 * Gives the memory of what lz4 made back, at once: it allocates outside of the heap, where the collector does not see
 * how much there is. A part of a larger memory is left alone.
 */
function release({ buffer, length }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === length) {
    buffer.transfer(0);
  }
}

/**
 * @param rawBytes length that the index promises; output beyond it is an error, so a hostile body cannot fill memory
 * @param out begins with room for it, unless the codec is `none`
 * @returns the chunk: in `out`, or where it is stored if that is as it was; undefined when the bytes do not decode to
 *   that length
 */
export function decodeChunk(
  codec: Codec,
  stored: Uint8Array,
  rawBytes: number,
  out: Uint8Array = Buffer.alloc(codec === 'none' ? 0 : rawBytes),
): Uint8Array | undefined {
  if (codec === 'none') {
    return stored.length === rawBytes ? stored : undefined;
  }
  const into = out.subarray(0, rawBytes);
  if (codec === 'zstd') {
    decodeZstd ??= createZstdDecoder();
    return decodeZstd(stored, into) ? into : undefined;
  }
  const raw = lz4Decode(stored, rawBytes);
  if (raw?.length !== rawBytes) {
    return undefined;
  }
  into.set(raw);
  release(raw);
  return into;
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
    // Only the body can be wrong here, and the caller names the chunk.
    return undefined;
  }
}

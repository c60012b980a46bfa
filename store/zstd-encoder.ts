/*
 * zstd for many small inputs. Node's public calls make a stream object and a context for each: at 64 KiB that takes as
 * long as the compression itself. One stream is kept here, and its handle asked to compress one frame at a time into
 * memory of the caller. The handle is not public API: another major version of Node gets the public call.
 */
import { constants, createZstdCompress, zstdCompressSync } from 'node:zlib';

/** Input of one frame is at most this; so is its window. */
export const MAX_FRAME_BYTES = 2 ** 18;
/** Larger than the input by this much at most (ZSTD_compressBound: a 256th, and 64 bytes for small inputs). */
export const FRAME_SPARE_BYTES = MAX_FRAME_BYTES / 256 + 64;

/** Compresses into `out` from `at` on, where there is room for the input and `FRAME_SPARE_BYTES`. @returns its length */
export type EncodeZstd = (raw: Uint8Array, out: Uint8Array, at: number) => number;

interface Handle {
  writeSync(
    flush: number,
    input: Uint8Array,
    inputOffset: number,
    inputBytes: number,
    output: Uint8Array,
    outputOffset: number,
    outputBytes: number,
  ): void;
}

export function createZstdEncoder(level: number): EncodeZstd {
  // Never ZSTD_c_nbWorkers: with workers Node loses output.
  const params = {
    [constants.ZSTD_c_compressionLevel]: level,
    [constants.ZSTD_c_windowLog]: Math.log2(MAX_FRAME_BYTES),
  };
  return (process.versions.node.startsWith('24.') ? keptEncoder(params) : undefined) ?? publicEncoder(params);
}

function publicEncoder(params: Record<number, number>): EncodeZstd {
  return (raw, out, at) => {
    const frame = zstdCompressSync(raw, { chunkSize: raw.length + FRAME_SPARE_BYTES, params });
    out.set(frame, at);
    return frame.length;
  };
}

/** @returns undefined when the stream is not as expected */
function keptEncoder(params: Record<number, number>): EncodeZstd | undefined {
  const stream: object = createZstdCompress({ params });
  const handle: unknown = Reflect.get(stream, '_handle');
  const state: unknown = Reflect.get(stream, '_writeState');
  if (!isHandle(handle) || !(state instanceof Uint32Array)) {
    return undefined;
  }
  return (raw, out, at) => {
    const room = raw.length + FRAME_SPARE_BYTES;
    handle.writeSync(constants.ZSTD_e_end, raw, 0, raw.length, out, at, room);
    const [roomLeft = 0, inputLeft = 0] = state;
    if (inputLeft > 0 || roomLeft === 0) {
      throw new Error(`zstd left ${inputLeft} of ${raw.length} bytes, and room for ${roomLeft}`);
    }
    return room - roomLeft;
  };
}

function isHandle(value: unknown): value is Handle {
  return typeof value === 'object' && value !== null && 'writeSync' in value && typeof value.writeSync === 'function';
}

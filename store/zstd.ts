/*
 * zstd for many small inputs. Node's public calls make a stream object and a context for each: at 64 KiB they take one and
 * a half times as long to compress and twice as long to decompress (pages of redis and Python). One stream is kept here
 * for each direction, and its handle asked for one frame at a time, in memory of the caller. The handle is not public
 * API: another major version of Node gets the public calls.
 */
import { constants, createZstdCompress, createZstdDecompress, zstdCompressSync, zstdDecompressSync } from 'node:zlib';

/** Input of one frame is at most this; so is its window. */
export const MAX_FRAME_BYTES = 2 ** 18;
/** Larger than the input by this much at most (ZSTD_compressBound: a 256th, and 64 bytes for small inputs). */
export const FRAME_SPARE_BYTES = MAX_FRAME_BYTES / 256 + 64;

/** Compresses into `out` from `at` on, where there is room for the input and `FRAME_SPARE_BYTES`. @returns its length */
export type EncodeZstd = (raw: Uint8Array, out: Uint8Array, at: number) => number;

/** Decompresses one frame that fills `into`. @returns false when it is none, or of another length */
export type DecodeZstd = (frame: Uint8Array, into: Uint8Array) => boolean;

interface Handle {
  onerror: () => void;
  close(): void;
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

interface Kept {
  readonly handle: Handle;
  /** after each call: room left in the output, and what is left of the input */
  readonly state: Uint32Array;
}

export function createZstdEncoder(level: number): EncodeZstd {
  // Never ZSTD_c_nbWorkers: with workers Node loses output.
  const params = {
    [constants.ZSTD_c_compressionLevel]: level,
    [constants.ZSTD_c_windowLog]: Math.log2(MAX_FRAME_BYTES),
  };
  const kept = keptOf(() => createZstdCompress({ params }));
  if (kept === undefined) {
    return (raw, out, at) => {
      const frame = zstdCompressSync(raw, { chunkSize: raw.length + FRAME_SPARE_BYTES, params });
      out.set(frame, at);
      return frame.length;
    };
  }
  const { handle, state } = kept;
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

export function createZstdDecoder(): DecodeZstd {
  // A frame that asks for a larger window is none of ours and must not make a reader allocate it.
  const params = { [constants.ZSTD_d_windowLogMax]: Math.log2(MAX_FRAME_BYTES) };
  let kept: Kept | undefined;
  return (frame, into) => {
    kept ??= keptOf(() => createZstdDecompress({ params }));
    if (kept !== undefined) {
      if (decodeKept(kept, frame, into)) {
        return true;
      }
      // It may stand in the middle of a frame, perhaps of the one before: the next one is decoded by another.
      kept.handle.close();
      kept = undefined;
    }
    return decodePublic(frame, into, params);
  };
}

function decodeKept({ handle, state }: Kept, frame: Uint8Array, into: Uint8Array): boolean {
  let failed = false;
  // oxlint-disable-next-line unicorn/prefer-add-event-listener -- what Node's own code calls; a handle has no listeners
  handle.onerror = () => {
    failed = true;
  };
  handle.writeSync(constants.ZSTD_e_end, frame, 0, frame.length, into, 0, into.length);
  return !failed && state[0] === 0 && state[1] === 0;
}

function decodePublic(frame: Uint8Array, into: Uint8Array, params: Record<number, number>): boolean {
  try {
    const raw = zstdDecompressSync(frame, {
      chunkSize: Math.max(64, into.length),
      maxOutputLength: into.length,
      params,
    });
    if (raw.length !== into.length) {
      return false;
    }
    into.set(raw);
    return true;
  } catch {
    // Only the frame can be wrong here, and the caller names the chunk.
    return false;
  }
}

/** @returns undefined when Node or the stream is not as expected */
function keptOf(create: () => object): Kept | undefined {
  if (!process.versions.node.startsWith('24.')) {
    return undefined;
  }
  const stream = create();
  const handle: unknown = Reflect.get(stream, '_handle');
  const state: unknown = Reflect.get(stream, '_writeState');
  return isHandle(handle) && state instanceof Uint32Array ? { handle, state } : undefined;
}

function isHandle(value: unknown): value is Handle {
  return (
    typeof value === 'object' &&
    value !== null &&
    ['writeSync', 'close'].every((name) => typeof Reflect.get(value, name) === 'function')
  );
}

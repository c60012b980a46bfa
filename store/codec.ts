/* Compression of single chunks, on Node's thread pool. */
import { constants, zstdCompress, zstdDecompress } from 'node:zlib';
import { MAX_CHUNK_BYTES, type Codec } from '../core/pack/pack.ts';

/**
 * Node hands output over in pieces of `chunkSize`, each a trip to the pool and back: with its default of 16 KiB a chunk
 * of 128 KiB takes three times as long.
 */
const OUTPUT_PIECE_BYTES = MAX_CHUNK_BYTES / 2 + 4096;
/** Less gain than this is not worth decompressing. */
const MIN_GAIN = 1 / 16;

export interface EncodedChunk {
  readonly codec: Codec;
  readonly bytes: Uint8Array;
}

/** Compresses, or gives the bytes themselves when that does not shrink them. */
export function encodeChunk(raw: Uint8Array): Promise<EncodedChunk> {
  return new Promise((resolve, reject) => {
    // Never ZSTD_c_nbWorkers: with workers Node's asynchronous form loses output.
    const params = { [constants.ZSTD_c_compressionLevel]: 1 };
    // The size told beforehand makes its tables fit the chunk: half the time for data that does not compress.
    const options = { chunkSize: OUTPUT_PIECE_BYTES, pledgedSrcSize: raw.length, params };
    zstdCompress(raw, options, (error, bytes) => {
      if (error !== null) {
        reject(error);
      } else {
        const shrunk = bytes.length <= raw.length * (1 - MIN_GAIN);
        resolve(shrunk ? { codec: 'zstd', bytes } : { codec: 'none', bytes: raw });
      }
    });
  });
}

/**
 * @param rawBytes length that the index promises; output beyond it is an error, so a hostile frame cannot fill memory
 * @returns undefined when the bytes do not decode to that length
 */
export function decodeChunk(codec: Codec, stored: Uint8Array, rawBytes: number): Promise<Uint8Array | undefined> {
  if (codec === 'none') {
    return Promise.resolve(stored.length === rawBytes ? stored : undefined);
  }
  return new Promise((resolve) => {
    zstdDecompress(stored, { chunkSize: OUTPUT_PIECE_BYTES, maxOutputLength: rawBytes }, (error, bytes) => {
      resolve(error === null && bytes.length === rawBytes ? bytes : undefined);
    });
  });
}

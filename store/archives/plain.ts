/* The bytes of an archive, whatever it is packed with: told by its magic number, so that a pipe needs no name. */
import { Readable, type Transform } from 'node:stream';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { ByteSource } from '../byte-source.ts';
import { errnoOf } from '../files.ts';
import { noRoom } from '../room.ts';
import { type ArchiveLimits, RATIO_FREE_BYTES, refused } from './limits.ts';

const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
const GZIP_MAGIC = Buffer.from([0x1f, 0x8b]);
/** 128 MiB, the most that `zstd --long` asks for. */
const ZSTD_WINDOW_LOG = 27;
/** Less would cost a call a block; more is only memory. */
const CHUNK_BYTES = 256 * 1024;

export interface Plain {
  readonly source: ByteSource;
  /** bytes that were read of the packed form so far; infinite for what is not packed */
  readonly packedBytes: () => number;
}

export async function openPlain(stream: AsyncIterable<Uint8Array>): Promise<Plain> {
  const source = new ByteSource(stream);
  const unpack = unpackerFor(await source.peek(ZSTD_MAGIC.length));
  if (unpack === undefined) {
    return { source, packedBytes: () => Number.POSITIVE_INFINITY };
  }
  const packed = Readable.from(source.remaining(), { objectMode: false });
  packed.on('error', (error) => unpack.destroy(error));
  return {
    source: new ByteSource(packed.pipe(unpack) as AsyncIterable<Uint8Array>),
    packedBytes: () => source.position,
  };
}

type StreamLimits = Pick<ArchiveLimits, 'maxBytes' | 'maxRatio' | 'room'>;

/** As it is, but for the limits: beyond them reading throws CheckpointCorrupt, and DiskFull beyond the room. */
export function limited(plain: Plain, limits: StreamLimits): ByteSource {
  return new ByteSource(counted(plain.source.remaining(), limits, plain.packedBytes));
}

function unpackerFor(head: Uint8Array): Transform | undefined {
  if (Buffer.compare(head, ZSTD_MAGIC) === 0) {
    return createZstdDecompress({
      chunkSize: CHUNK_BYTES,
      params: { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG },
    });
  }
  return Buffer.compare(head.subarray(0, GZIP_MAGIC.length), GZIP_MAGIC) === 0
    ? createGunzip({ chunkSize: CHUNK_BYTES })
    : undefined;
}

async function* counted(
  pieces: AsyncIterable<Uint8Array>,
  { maxBytes, maxRatio, room }: StreamLimits,
  packedBytes: () => number,
): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const piece of pieces) {
    bytes += piece.length;
    if (bytes > maxBytes) {
      throw refused(`it unpacks to more than ${maxBytes} bytes (--max-bytes)`);
    }
    if (bytes > RATIO_FREE_BYTES && bytes > packedBytes() * maxRatio) {
      throw refused(`it unpacks to more than ${maxRatio} times its size (--max-ratio)`);
    }
    if (room !== undefined && bytes > room.bytes) {
      throw noRoom(room, `the archive unpacks to ${bytes} and more; nothing of it is left`);
    }
    yield piece;
  }
}

/** What zlib throws is about the archive. */
export function ofArchive(error: unknown): unknown {
  const code = errnoOf(error) ?? '';
  return code.startsWith('ZSTD_') || code.startsWith('Z_') || code === 'ERR_STREAM_PREMATURE_CLOSE'
    ? new KybernateError('CheckpointCorrupt', `the archive cannot be decompressed: ${messageOf(error)}`, {
        cause: error,
      })
    : error;
}

/* Reads chunks of a local file in blocks, one block ahead, into two buffers that are used in turn. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { KybernateError } from '../core/errors.ts';
import { errnoOf } from './files.ts';

/** Hashed at one go by the consumer: under a millisecond of the event loop. */
const BLOCK_BYTES = 4 * 2 ** 20;

export interface ReadChunk<Item> {
  readonly chunk: Item;
  /** valid until the next block is asked for */
  readonly bytes: Buffer;
}

/** Where a chunk lies in its file. */
export interface Extent {
  readonly offset: number;
  readonly bytes: number;
}

/**
 * Reads the given chunks, which must be in order of their offsets; neighbours are read together.
 * @param fileBytes size that the file must have
 * @throws CheckpointCorrupt when the file is missing, not a regular file, or of another size
 */
export async function* readChunks<Item extends Extent>(
  path: string,
  fileBytes: number,
  chunks: readonly Item[],
  signal: AbortSignal,
): AsyncGenerator<Array<ReadChunk<Item>>> {
  const handle = await openRegular(path, fileBytes);
  let ahead: Promise<Buffer> | undefined;
  try {
    const blocks = toBlocks(chunks);
    const size = Math.min(BLOCK_BYTES, fileBytes);
    const buffers = [Buffer.allocUnsafeSlow(size), Buffer.allocUnsafeSlow(blocks.length > 1 ? size : 0)];
    const read = (index: number): Promise<Buffer> | undefined => {
      const block = blocks[index];
      const buffer = buffers[index % 2];
      return block === undefined || buffer === undefined ? undefined : readBlock(handle, path, block, buffer);
    };
    ahead = read(0);
    for (const [index, block] of blocks.entries()) {
      signal.throwIfAborted();
      const bytes = await ahead;
      ahead = read(index + 1);
      const start = block[0]?.offset ?? 0;
      if (bytes !== undefined) {
        yield block.map((chunk) => ({
          chunk,
          bytes: bytes.subarray(chunk.offset - start, chunk.offset - start + chunk.bytes),
        }));
      }
    }
  } finally {
    // The consumer may have stopped early; the handle must not be closed under a running read.
    await ahead?.catch(() => undefined);
    await handle.close();
  }
}

async function openRegular(path: string, fileBytes: number): Promise<FileHandle> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (error: unknown) => {
      throw ['ENOENT', 'ELOOP', 'ENOTDIR', 'ENXIO'].includes(errnoOf(error) ?? '')
        ? new KybernateError('CheckpointCorrupt', `${path} is missing or not a regular file`, { cause: error })
        : error;
    },
  );
  const info = await handle.stat();
  if (!info.isFile() || info.size !== fileBytes) {
    await handle.close();
    throw new KybernateError('CheckpointCorrupt', `${path} has ${info.size} bytes instead of ${fileBytes}`);
  }
  return handle;
}

function toBlocks<Item extends Extent>(chunks: readonly Item[]): Item[][] {
  const blocks: Item[][] = [];
  let block: Item[] = [];
  for (const chunk of chunks) {
    const first = block[0];
    const last = block.at(-1);
    const fits =
      first !== undefined &&
      last !== undefined &&
      chunk.offset === last.offset + last.bytes &&
      chunk.offset + chunk.bytes - first.offset <= BLOCK_BYTES;
    if (fits) {
      block.push(chunk);
    } else {
      block = [chunk];
      blocks.push(block);
    }
  }
  return blocks;
}

async function readBlock(handle: FileHandle, path: string, block: readonly Extent[], buffer: Buffer): Promise<Buffer> {
  const start = block[0]?.offset ?? 0;
  const wanted = block.reduce((sum, chunk) => sum + chunk.bytes, 0);
  for (let done = 0; done < wanted;) {
    const { bytesRead } = await handle.read(buffer, done, wanted - done, start + done);
    if (bytesRead === 0) {
      throw new KybernateError('CheckpointCorrupt', `${path} became shorter while it was read`);
    }
    done += bytesRead;
  }
  return buffer.subarray(0, wanted);
}

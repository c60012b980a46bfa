/* Opens local files of a checkpoint and cuts lists of chunks into jobs for chunk-workers.ts. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { KybernateError } from '../core/errors.ts';
import { JOB_BYTES, type Extent } from './chunk-jobs.ts';
import { errnoOf } from './files.ts';

export interface ReadChunk<Item> {
  readonly chunk: Item;
  /** valid until the next block is asked for */
  readonly bytes: Buffer;
}

/**
 * Reads the given chunks, which must be in order of their offsets; neighbours are read together.
 * @param fileBytes size that the file must have
 * @throws CheckpointCorrupt when the file is missing, not a regular file, or of another size
 */
export async function* readChunks<Item extends Extent>(
  path: string,
  fileBytes: number,
  chunks: Iterable<Item>,
  signal: AbortSignal,
): AsyncGenerator<Array<ReadChunk<Item>>> {
  const handle = await openRegular(path, fileBytes);
  let ahead: Ahead<Item> | undefined;
  try {
    const size = Math.min(JOB_BYTES, fileBytes);
    const buffers = [Buffer.allocUnsafeSlow(size), Buffer.allocUnsafeSlow(size)];
    const blocks = toJobs(chunks);
    const next = (turn: number): Ahead<Item> | undefined => {
      const block = blocks.next().value;
      const buffer = buffers[turn % 2];
      if (block === undefined || buffer === undefined) {
        return undefined;
      }
      const bytes = readBlock(handle, path, block, buffer);
      // Whoever comes to it sees its failure; until then nobody listens.
      bytes.catch(() => undefined);
      return { block, bytes };
    };
    ahead = next(0);
    for (let turn = 1; ahead !== undefined; turn += 1) {
      signal.throwIfAborted();
      const { block, bytes }: Ahead<Item> = ahead;
      const pieces = await bytes;
      ahead = next(turn);
      yield block.map((chunk, index) => ({ chunk, bytes: pieces[index] ?? Buffer.alloc(0) }));
    }
  } finally {
    // The consumer may have stopped early; the handle must not be closed under a running read.
    await ahead?.bytes.catch(() => undefined);
    await handle.close();
  }
}

interface Ahead<Item> {
  readonly block: readonly Item[];
  /** of each chunk of the block */
  readonly bytes: Promise<Buffer[]>;
}

async function readBlock(
  handle: FileHandle,
  path: string,
  block: readonly Extent[],
  buffer: Buffer,
): Promise<Buffer[]> {
  let used = 0;
  const pieces: Buffer[] = [];
  for (const { offset, bytes } of block) {
    const piece = buffer.subarray(used, used + bytes);
    for (let done = 0; done < bytes;) {
      const { bytesRead } = await handle.read(piece, done, bytes - done, offset + done);
      if (bytesRead === 0) {
        throw becameShorter(path);
      }
      done += bytesRead;
    }
    pieces.push(piece);
    used += bytes;
  }
  return pieces;
}

/** @throws CheckpointCorrupt when the file is missing, not a regular file, or of another size */
export async function openRegular(path: string, fileBytes: number): Promise<FileHandle> {
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

export function becameShorter(path: string): KybernateError {
  return new KybernateError('CheckpointCorrupt', `${path} became shorter while it was read`);
}

/** Groups of chunks for one job each, in order; the list is never held as a whole. */
export function* toJobs<Item extends Extent>(chunks: Iterable<Item>): Generator<Item[]> {
  let group: Item[] = [];
  let bytes = 0;
  for (const chunk of chunks) {
    if (bytes + chunk.bytes > JOB_BYTES) {
      yield group;
      group = [];
      bytes = 0;
    }
    group.push(chunk);
    bytes += chunk.bytes;
  }
  if (group.length > 0) {
    yield group;
  }
}

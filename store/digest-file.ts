/* The chunks of one local file: their digests, and which are zeros. Holes are not read where it is known that they are. */
import { CHUNK_BYTES, chunkRuns, type Segment, type SegmentShape } from '../core/checkpoint/manifest.ts';
import { ChunkListBuilder } from './chunk-list.ts';
import type { Extent } from './chunk-jobs.ts';
import { chunkJobsAhead, type RunChunkJob } from './chunk-workers.ts';
import { mapAhead } from './limit.ts';
import { becameShorter, openRegular, toJobs } from './read-chunks.ts';

/**
 * The ranges of a file that may hold data, rising; everything else reads as zeros. undefined where the file system does
 * not tell. Injected: the store has no system calls of its own.
 */
export type DataExtents = (fd: number, fileBytes: number) => Iterable<Extent> | undefined;

export interface FileReader {
  readonly run: RunChunkJob;
  readonly signal: AbortSignal;
  readonly dataExtents?: DataExtents;
  /** told of every step, with the bytes that were read */
  readonly advance: (bytes: number) => void;
}

/**
 * Reads a file that is the concatenation of segments of the given shapes.
 * @returns the segments with their chunks
 * @throws CheckpointCorrupt when the file is missing, not a regular file, or not of `fileBytes`
 */
export async function digestSegments(
  path: string,
  fileBytes: number,
  shapes: readonly SegmentShape[],
  reader: FileReader,
): Promise<Segment[]> {
  if (fileBytes === 0) {
    return [];
  }
  const segments: Segment[] = [];
  const handle = await openRegular(path, fileBytes);
  try {
    let start = 0;
    for (const shape of shapes) {
      const file = { path, fd: handle.fd, bytes: fileBytes };
      const list = await digestSegment(file, shape, start, reader);
      if (shape.kind === 'file') {
        segments.push({ kind: 'file', bytes: shape.bytes, ...list });
        start += shape.bytes;
      } else {
        segments.push({ kind: 'memory', pageBytes: shape.pageBytes, runs: [...shape.runs], ...list });
        start += shape.pageBytes * shape.runs.reduce((sum, pages, index) => sum + (index % 2 === 1 ? pages : 0), 0);
      }
    }
  } finally {
    await handle.close();
  }
  return segments;
}

async function digestSegment(
  file: { readonly path: string; readonly fd: number; readonly bytes: number },
  shape: SegmentShape,
  start: number,
  reader: FileReader,
): Promise<Pick<Segment, 'zero' | 'digests'>> {
  const { fd } = file;
  const data = shape.kind === 'file' ? reader.dataExtents?.(fd, file.bytes) : undefined;
  const list = new ChunkListBuilder();
  const steps = mapAhead(stepsOf(shape, start, data), chunkJobsAhead(), reader.signal, async (step) => {
    if (typeof step === 'number') {
      return step;
    }
    const digested = await reader.run({ kind: 'digest', fd, extents: step });
    if (digested.kind === 'short') {
      throw becameShorter(file.path);
    }
    reader.advance(step.reduce((sum, { bytes }) => sum + bytes, 0));
    return digested.digests;
  });
  for await (const step of steps) {
    if (typeof step === 'number') {
      list.addZeros(step);
      continue;
    }
    for (const digest of step) {
      if (digest === undefined) {
        list.addZeros(1);
      } else {
        list.add(digest);
      }
    }
  }
  return list.finish();
}

/** What is to be done for a segment, in order: so many chunks of zeros, or chunks to read. */
function* stepsOf(
  shape: SegmentShape,
  start: number,
  data: Iterable<Extent> | undefined,
): Generator<number | Extent[]> {
  if (shape.kind === 'memory' || data === undefined) {
    yield* toJobs(extentsOf(shape, start));
    return;
  }
  const count = Math.ceil(shape.bytes / CHUNK_BYTES);
  const between = (first: number, end: number): Generator<Extent[]> =>
    toJobs(fileExtents(shape.bytes, start, first, end));
  let done = 0;
  for (const { offset, bytes } of data) {
    const first = Math.max(done, Math.floor((offset - start) / CHUNK_BYTES));
    const end = Math.min(count, Math.ceil((offset + bytes - start) / CHUNK_BYTES));
    if (end > first) {
      if (first > done) {
        yield first - done;
      }
      yield* between(first, end);
      done = end;
    }
  }
  if (count > done) {
    yield count - done;
  }
}

function* fileExtents(segmentBytes: number, start: number, first: number, end: number): Generator<Extent> {
  for (let chunk = first; chunk < end; chunk += 1) {
    const offset = chunk * CHUNK_BYTES;
    yield { offset: start + offset, bytes: Math.min(CHUNK_BYTES, segmentBytes - offset) };
  }
}

function* extentsOf(shape: SegmentShape, start: number): Generator<Extent> {
  let offset = start;
  for (const { count, bytes } of chunkRuns(shape)) {
    for (let chunk = 0; chunk < count; chunk += 1) {
      yield { offset, bytes };
      offset += bytes;
    }
  }
}

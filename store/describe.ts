/*
 * Makes the manifest of a checkpoint directory: after the thaw, before any byte leaves the node. CRIU's page images are
 * chunked by the addresses in their pagemap, every other file by offset.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  CHUNK_BYTES,
  FORMAT_VERSION,
  HASH_NAME,
  PAGE_BYTES,
  type Manifest,
  type ManifestFile,
  type SegmentShape,
} from '../core/checkpoint/manifest.ts';
import { decodePagemap, isInPagesFile, type Pagemap } from '../core/checkpoint/pagemap.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { chunkJobRunner } from './chunk-workers.ts';
import { digestSegments, type DataExtents } from './digest-file.ts';
import { forEachLimit } from './limit.ts';
import { merkleRoot } from './merkle.ts';
import { walkCheckpoint, type FoundFile } from './walk.ts';

const PARALLEL_FILES = 4;

export interface DescribeOptions {
  /** where a file has data, for files with large holes; absent: everything is read */
  readonly dataExtents?: DataExtents;
}

/**
 * Reads every file of the checkpoint and describes it. metadata.json, the manifest itself and the marks of an upload
 * are left out. Nothing is written.
 * @throws CheckpointCorrupt when something in the directory cannot be part of a checkpoint
 */
export async function describeCheckpoint(dir: string, op: Op, options: DescribeOptions = {}): Promise<Manifest> {
  const found = await walkCheckpoint(dir, op.signal);
  const shapes = await memoryShapes(dir, found, op);
  const totalBytes = found.reduce((sum, file) => sum + file.bytes, 0);
  const files: ManifestFile[] = [];
  let bytesDone = 0;
  const reader = {
    ...options,
    run: chunkJobRunner(totalBytes),
    signal: op.signal,
    advance: (bytes: number): void => {
      bytesDone += bytes;
      op.progress({ phase: 'committing', bytesDone, bytesTotal: totalBytes });
    },
  };
  await forEachLimit(found.entries(), PARALLEL_FILES, op.signal, async ([index, { path, bytes }]) => {
    const shape = shapes.get(path) ?? { kind: 'file', bytes };
    files[index] = { path, bytes, segments: await digestSegments(join(dir, path), bytes, [shape], reader) };
  });
  const root = merkleRoot(files);
  return { version: FORMAT_VERSION, hash: HASH_NAME, chunkBytes: CHUNK_BYTES, totalBytes, merkleRoot: root, files };
}

type MemoryShape = Extract<SegmentShape, { kind: 'memory' }>;

/** The page images that a pagemap beside them explains, by path. */
async function memoryShapes(dir: string, found: readonly FoundFile[], op: Op): Promise<Map<string, MemoryShape>> {
  const sizes = new Map(found.map((file) => [file.path, file.bytes]));
  const shapes = new Map<string, MemoryShape>();
  const ambiguous = new Set<string>();
  for (const { path } of found) {
    const parent = /^(.*\/)?pagemap-[^/]+\.img$/.exec(path);
    if (parent === null) {
      continue;
    }
    op.signal.throwIfAborted();
    const pagemap = await readPagemap(join(dir, path), op);
    const pages = `${parent[1] ?? ''}pages-${pagemap?.pagesId}.img`;
    const shape = pagemap === undefined ? undefined : shapeOf(pagemap, sizes.get(pages) ?? 0);
    if (shapes.has(pages)) {
      ambiguous.add(pages);
    } else if (shape !== undefined) {
      shapes.set(pages, shape);
    }
  }
  for (const pages of ambiguous) {
    shapes.delete(pages);
  }
  return shapes;
}

/** Chunking by offset is always right, only less reusable: a pagemap of an unknown kind is no reason to fail. */
async function readPagemap(path: string, op: Op): Promise<Pagemap | undefined> {
  const bytes = await readFile(path);
  try {
    return decodePagemap(bytes);
  } catch (error) {
    if (!(error instanceof KybernateError)) {
      throw error;
    }
    op.log.warn({ path, reason: error.message }, 'pagemap not understood: its pages are chunked by offset');
    return undefined;
  }
}

/** undefined when the size of the page image is not what the pagemap says with any page size. */
function shapeOf(pagemap: Pagemap, pagesFileBytes: number): MemoryShape | undefined {
  const inFile = pagemap.entries.filter(isInPagesFile);
  const pages = inFile.reduce((sum, entry) => sum + entry.nrPages, 0);
  const pageBytes = PAGE_BYTES.find((size) => pages > 0 && size * pages === pagesFileBytes);
  if (pageBytes === undefined) {
    return undefined;
  }
  const runs: number[] = [];
  for (const { vaddr, nrPages } of inFile) {
    const page = Number(vaddr / BigInt(pageBytes));
    const last = runs.length - 1;
    if (last > 0 && (runs[last - 1] ?? 0) + (runs[last] ?? 0) === page) {
      runs[last] = (runs[last] ?? 0) + nrPages;
    } else {
      runs.push(page, nrPages);
    }
  }
  return { kind: 'memory', pageBytes, runs };
}

/*
 * The two manifests of a checkpoint, format version 1 (docs/format.md shows them whole).
 *
 *   manifest.json on the node     `Manifest`: files → segments → chunks, Merkle root. Made before any byte leaves it.
 *   checkpoints/<id>/files-<d>.json  in the store: the same text, named by the first 16 digits of its digest.
 *   checkpoints/<id>/manifest.json   in the store: `PublishedManifest`, small, written last. It names the file list by
 *                                 digest, the packs that hold the chunks, and carries metadata.json as text.
 *
 * So a catalog reads kilobytes a checkpoint, also where the chunks are counted in millions: 100 GB are 1.5 million, of
 * which a manifest keeps 43 characters each. What is known only after the upload (codec, pack, offset, stored
 * length) is in the packs' own indexes.
 *
 * A file is the concatenation of its segments, a segment that of its chunks. Lengths are not stored, they follow:
 *   kind `file`    chunks of `chunkBytes`, the last one shorter
 *   kind `memory`  the pages of pages-N.img, in its order; a chunk is the run of neighbouring pages whose addresses lie
 *                  in one window of `chunkBytes` (aligned). A page more or less changes the chunk of its window only.
 */
import * as z from 'zod';
import { checkpointId } from '../contract/common.ts';
import { KybernateError } from '../errors.ts';
import {
  ENCRYPTED_MANIFEST_VERSION,
  encryptedManifest,
  type EncryptedManifest,
  type EncryptionInfo,
} from './encryption.ts';
import { METADATA_FILE, OWN_FILES } from './file-names.ts';
import { signatureFile } from './signature.ts';

export const FORMAT_VERSION = 1;
export const HASH_NAME = 'blake3';
export const DIGEST_BYTES = 32;
/**
 * Window of a chunk; a power of two, a multiple of every page size. When 1 % of the pages changes, scattered, a window of
 * 64 KiB makes 15 % of the bytes new; one of 128 KiB would make it 27 %.
 */
export const CHUNK_BYTES = 65_536;

/** Page sizes of the kernels that CRIU runs on. */
export const PAGE_BYTES = [4096, 16_384, 65_536] as const;
export type PageBytes = (typeof PAGE_BYTES)[number];
/** 4 TiB: a damaged manifest must not make a reader allocate without end. */
const MAX_TOTAL_BYTES = 2 ** 42;

const digest = z.string().regex(/^[0-9a-f]{64}$/, 'a digest: 64 lower case hexadecimal digits');
const count = z.int().min(0);
/** Flat list of pairs, so that a million of them stays a plain array of numbers. */
const pairs = z.array(count).refine((list) => list.length % 2 === 0, 'a list of pairs');

const chunks = {
  /** [index of the first, number] of runs of chunks that hold zeros only; they are stored nowhere */
  zero: pairs,
  /** BLAKE3 of the other chunks, 32 bytes each, in order, as one base64 text */
  digests: z.string(),
};

export const segment = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('file'), bytes: count, ...chunks }),
  z.strictObject({
    kind: z.literal('memory'),
    pageBytes: z.literal(PAGE_BYTES),
    /** [page number = address / pageBytes, pages] of runs of neighbouring pages, in the order of the file */
    runs: pairs,
    ...chunks,
  }),
]);
export type Segment = z.output<typeof segment>;

const manifestFile = z.strictObject({
  path: z.string().refine((path) => pathProblem(path) === undefined, 'a clean relative path'),
  bytes: count,
  segments: z.array(segment),
});
export type ManifestFile = z.output<typeof manifestFile>;

export const manifest = z
  .strictObject({
    version: z.literal(FORMAT_VERSION),
    hash: z.literal(HASH_NAME),
    chunkBytes: z.literal(CHUNK_BYTES),
    totalBytes: count.max(MAX_TOTAL_BYTES),
    /** fixes path, size, segments and every byte of every file; how it is made: store/merkle.ts */
    merkleRoot: digest,
    /** in the order of their paths (by UTF-16 units), each once */
    files: z.array(manifestFile),
  })
  .superRefine((value, context) => {
    for (const problem of listProblems(value.files, value.totalBytes)) {
      context.addIssue({ code: 'custom', message: problem, path: ['files'] });
    }
  });
export type Manifest = z.output<typeof manifest>;

export const packId = z.string().regex(/^[0-9a-f]{32}$/, 'a pack id: 32 hexadecimal digits');

export const publishedManifest = z.strictObject({
  version: z.literal(FORMAT_VERSION),
  checkpointId,
  hash: z.literal(HASH_NAME),
  merkleRoot: digest,
  /** ISO time */
  publishedAt: z.string(),
  totalBytes: count,
  /** the file list: text of the node's manifest.json, its digest and size */
  files: z.strictObject({ digest, bytes: count }),
  /** every pack that holds a chunk of this checkpoint: id, size of the object */
  packs: z.array(z.tuple([packId, count])),
  /** metadata.json as it lies on the node; its `merkleRoot` equals the one above */
  metadata: z.strictObject({ text: z.string(), digest }),
  /** signature.json as it lies on the node; absent when nobody signed */
  signature: signatureFile.optional(),
});
/** With `encryption` it was sealed in the store; `files` is the list as it lies on a node in any case. */
export type PublishedManifest = z.output<typeof publishedManifest> & { readonly encryption?: EncryptionInfo };

/** What a store holds. Without a key id, packs, total size and time of an encrypted one can be read. */
export type StoredManifest = PublishedManifest | EncryptedManifest;

const OUTSIDE_CONTENT: readonly string[] = [METADATA_FILE, ...Object.values(OWN_FILES)].filter(
  (name) => name !== OWN_FILES.spec,
);

/** Why a path of a manifest must not be used below a checkpoint directory; undefined when it may. */
export function pathProblem(path: string): string | undefined {
  if (path.length === 0 || path.length > 1024) {
    return 'is empty or longer than 1024 characters';
  }
  // eslint-disable-next-line no-control-regex -- control characters are what is refused
  if (/[\u0000-\u001f\u007f\\]/.test(path)) {
    return 'has a control character or a backslash';
  }
  if (path.split('/').some((part) => part === '' || part === '.' || part === '..')) {
    return 'is absolute or has an empty, "." or ".." part';
  }
  return isOutsideContent(path) ? 'is reserved' : undefined;
}

/** True for the files of a checkpoint directory that describe it or mark its state, and for their temporary forms. */
export function isOutsideContent(path: string): boolean {
  return OUTSIDE_CONTENT.some((name) => path === name || path.startsWith(`${name}.`));
}

function listProblems(files: readonly ManifestFile[], totalBytes: number): string[] {
  const problems: string[] = [];
  const paths = new Set(files.map((file) => file.path));
  let previous = '';
  let sum = 0;
  for (const file of files) {
    if (file.path <= previous) {
      problems.push(`${file.path} is listed twice or out of order`);
    }
    for (let end = file.path.indexOf('/'); end !== -1; end = file.path.indexOf('/', end + 1)) {
      if (paths.has(file.path.slice(0, end))) {
        problems.push(`${file.path.slice(0, end)} is both a file and a directory`);
      }
    }
    if (file.segments.reduce((bytes, part) => bytes + segmentBytes(part), 0) !== file.bytes) {
      problems.push(`the segments of ${file.path} do not add up to its size`);
    }
    previous = file.path;
    sum += file.bytes;
  }
  if (sum !== totalBytes) {
    problems.push(`the files have ${sum} bytes, the manifest says ${totalBytes}`);
  }
  return problems;
}

export function segmentBytes(part: Segment): number {
  if (part.kind === 'file') {
    return part.bytes;
  }
  let pages = 0;
  for (let index = 1; index < part.runs.length; index += 2) {
    pages += part.runs[index] ?? 0;
  }
  return pages * part.pageBytes;
}

/** What of a segment decides where its chunks begin. */
export type SegmentShape =
  | { readonly kind: 'file'; readonly bytes: number }
  | { readonly kind: 'memory'; readonly pageBytes: PageBytes; readonly runs: readonly number[] };

/** Neighbouring chunks of the same length. */
export interface ChunkRun {
  readonly count: number;
  /** of each chunk, never 0 */
  readonly bytes: number;
}

/** Lengths of a segment's chunks, in order. Runs, because a file may be one of a terabyte that is all holes. */
export function* chunkRuns(shape: SegmentShape): Generator<ChunkRun> {
  if (shape.kind === 'memory') {
    yield* memoryRuns(shape.pageBytes, shape.runs);
    return;
  }
  const whole = Math.floor(shape.bytes / CHUNK_BYTES);
  if (whole > 0) {
    yield { count: whole, bytes: CHUNK_BYTES };
  }
  if (shape.bytes > whole * CHUNK_BYTES) {
    yield { count: 1, bytes: shape.bytes - whole * CHUNK_BYTES };
  }
}

function* memoryRuns(pageBytes: PageBytes, runs: readonly number[]): Generator<ChunkRun> {
  const windowPages = CHUNK_BYTES / pageBytes;
  let window = -1;
  let lastPage = -1;
  let pages = 0;
  for (let index = 0; index + 1 < runs.length; index += 2) {
    let page = runs[index] ?? 0;
    let left = runs[index + 1] ?? 0;
    while (left > 0) {
      const now = Math.floor(page / windowPages);
      // Pages that go backwards begin a new chunk: a chunk never holds more than its window.
      if ((now !== window || page < lastPage) && pages > 0) {
        yield { count: 1, bytes: pages * pageBytes };
        pages = 0;
      }
      const windows = page % windowPages === 0 && pages === 0 ? Math.floor(left / windowPages) : 0;
      const take = windows > 0 ? windows * windowPages : Math.min(left, (now + 1) * windowPages - page);
      if (windows > 0) {
        yield { count: windows, bytes: CHUNK_BYTES };
      } else {
        pages += take;
      }
      page += take;
      left -= take;
      window = Math.floor((page - 1) / windowPages);
      lastPage = page;
    }
  }
  if (pages > 0) {
    yield { count: 1, bytes: pages * pageBytes };
  }
}

/** The text of manifest.json; the same manifest always gives the same text. */
export function encodeManifest(value: Manifest): string {
  return `${JSON.stringify(value)}\n`;
}

export function encodePublishedManifest(value: StoredManifest): string {
  return `${JSON.stringify(value, undefined, 1)}\n`;
}

/** @throws CheckpointCorrupt naming `where` and the first things that are wrong */
export function parseManifest(text: string, where: string): Manifest {
  return parseJson(manifest, text, where);
}

/** @throws CheckpointCorrupt */
export function parsePublishedManifest(text: string, where: string): PublishedManifest {
  return parseJson(publishedManifest, text, where);
}

/** @throws CheckpointCorrupt; Incompatible when a newer Kybernate has written it */
export function parseStoredManifest(text: string, where: string): StoredManifest {
  const value = readJson(text, where);
  const version: unknown =
    typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined;
  if (typeof version === 'number' && version > ENCRYPTED_MANIFEST_VERSION) {
    throw new KybernateError(
      'Incompatible',
      `${where} is of format version ${version}; this Kybernate reads versions up to ${ENCRYPTED_MANIFEST_VERSION}`,
    );
  }
  return version === ENCRYPTED_MANIFEST_VERSION
    ? parseValue(encryptedManifest, value, where)
    : parseValue(publishedManifest, value, where);
}

/** @throws CheckpointCorrupt when the text is not JSON or does not fit the schema */
export function parseJson<Schema extends z.ZodType>(schema: Schema, text: string, where: string): z.output<Schema> {
  return parseValue(schema, readJson(text, where), where);
}

function parseValue<Schema extends z.ZodType>(schema: Schema, value: unknown, where: string): z.output<Schema> {
  const parsed = schema.safeParse(value);
  if (parsed.success) {
    return parsed.data;
  }
  const issues = parsed.error.issues.slice(0, 5).map((issue) => `${issue.path.join('.')}: ${issue.message}`);
  throw new KybernateError('CheckpointCorrupt', `${where} is damaged: ${issues.join('; ')}`, { details: { issues } });
}

function readJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new KybernateError('CheckpointCorrupt', `${where} is damaged: it is not JSON`, { cause: error });
  }
}

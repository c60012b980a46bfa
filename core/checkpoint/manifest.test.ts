import { describe, expect, it } from 'vitest';
import {
  CHUNK_BYTES,
  chunkRuns,
  encodeManifest,
  parseManifest,
  parsePublishedManifest,
  pathProblem,
  type Manifest,
  type SegmentShape,
} from './manifest.ts';

const PAGE = 4096;
const WINDOW = CHUNK_BYTES / PAGE;

function lengths(shape: SegmentShape): number[] {
  return [...chunkRuns(shape)].flatMap(({ count, bytes }) => Array.from({ length: count }, () => bytes));
}

function memory(...runs: number[]): number[] {
  return lengths({ kind: 'memory', pageBytes: PAGE, runs }).map((bytes) => bytes / PAGE);
}

const file = (path: string, bytes: number): Manifest['files'][number] => ({
  path,
  bytes,
  segments: bytes === 0 ? [] : [{ kind: 'file', bytes, zero: [0, 1], digests: '' }],
});

function manifestOf(
  files: Manifest['files'],
  totalBytes = files.reduce((sum, entry) => sum + entry.bytes, 0),
): Manifest {
  return { version: 1, hash: 'blake3', chunkBytes: CHUNK_BYTES, totalBytes, merkleRoot: 'a'.repeat(64), files };
}

describe('chunkRuns', () => {
  it('cuts a file by offset', () => {
    expect(lengths({ kind: 'file', bytes: 2 * CHUNK_BYTES + 5 })).toEqual([CHUNK_BYTES, CHUNK_BYTES, 5]);
    expect(lengths({ kind: 'file', bytes: CHUNK_BYTES })).toEqual([CHUNK_BYTES]);
    expect(lengths({ kind: 'file', bytes: 0 })).toEqual([]);
  });

  it('cuts memory where an aligned window of addresses ends', () => {
    expect(memory(0, WINDOW)).toEqual([WINDOW]);
    expect(memory(1, WINDOW)).toEqual([WINDOW - 1, 1]);
    expect(memory(10, 2 * WINDOW)).toEqual([WINDOW - 10, WINDOW, 10]);
  });

  it('keeps the pages of one window together across holes', () => {
    expect(memory(0, 2, 5, 3, WINDOW, 1)).toEqual([5, 1]);
  });

  it('begins a new chunk where addresses go back', () => {
    expect(memory(4, 2, 0, 2)).toEqual([2, 2]);
    expect(memory(3, 1, 3, 1)).toEqual([1, 1]);
  });

  it('uses fewer pages a window when pages are larger', () => {
    expect(lengths({ kind: 'memory', pageBytes: 65_536, runs: [1, 3] })).toEqual([65_536, 65_536, 65_536]);
    expect(lengths({ kind: 'memory', pageBytes: 16_384, runs: [1, 5] })).toEqual([3 * 16_384, 2 * 16_384]);
  });

  it('is a few runs for a terabyte', () => {
    expect([...chunkRuns({ kind: 'file', bytes: 2 ** 40 + 1 })]).toEqual([
      { count: 2 ** 40 / CHUNK_BYTES, bytes: CHUNK_BYTES },
      { count: 1, bytes: 1 },
    ]);
    expect([...chunkRuns({ kind: 'memory', pageBytes: PAGE, runs: [1, 2 ** 28, 2 ** 30, 3] })]).toEqual([
      { count: 1, bytes: CHUNK_BYTES - PAGE },
      { count: 2 ** 24 - 1, bytes: CHUNK_BYTES },
      { count: 1, bytes: PAGE },
      { count: 1, bytes: 3 * PAGE },
    ]);
  });
});

describe('pathProblem', () => {
  it.each(['a', 'criu/pages-1.img', 'fs/..a', 'logs/...', 'criu/metadata.json', 'config.json'])('allows %j', (path) => {
    expect(pathProblem(path)).toBeUndefined();
  });

  it.each([
    ['', 'empty'],
    ['x'.repeat(1025), 'longer'],
    ['/etc/passwd', 'absolute'],
    ['..', '..'],
    ['a/../b', '..'],
    ['./a', '"."'],
    ['a//b', 'empty'],
    ['a/', 'empty'],
    ['a\0b', 'control'],
    ['a\nb', 'control'],
    ['a\\b', 'backslash'],
    ['metadata.json', 'reserved'],
    ['manifest.json', 'reserved'],
    ['manifest.json.tmp', 'reserved'],
    ['upload.pending', 'reserved'],
    ['upload.ledger', 'reserved'],
  ])('refuses %j', (path, reason) => {
    expect(pathProblem(path)).toContain(reason);
  });
});

describe('parseManifest', () => {
  it('gives back what encodeManifest wrote', () => {
    const value = manifestOf([file('a', 1), file('b/c', 0)]);

    expect(parseManifest(encodeManifest(value), 'here')).toEqual(value);
    expect(encodeManifest(parseManifest(encodeManifest(value), 'here'))).toBe(encodeManifest(value));
  });

  it.each([
    ['two files of one name', manifestOf([file('a', 1), file('a', 1)]), /twice/],
    ['files out of order', manifestOf([file('b', 1), file('a', 1)]), /order/],
    ['a file that is a directory too', manifestOf([file('a', 1), file('a/b', 1)]), /both a file and a directory/],
    ['a path that leaves the directory', manifestOf([file('../a', 1)]), /clean relative path/],
    ['a wrong total', manifestOf([file('a', 1)], 2), /the manifest says 2/],
    ['a size that the segments do not have', manifestOf([{ ...file('a', 1), bytes: 2 }]), /do not add up/],
    ['a size without end', manifestOf([file('a', 2 ** 43)]), /totalBytes/],
  ])('refuses %s', (_, value, reason) => {
    expect(() => parseManifest(encodeManifest(value), 'here')).toThrow(reason);
    expect(() => parseManifest(encodeManifest(value), 'here')).toThrow(
      expect.objectContaining({ type: 'CheckpointCorrupt' }),
    );
  });

  it.each([
    ['a later version', { version: 2 }],
    ['another hash', { hash: 'md5' }],
    ['another chunk size', { chunkBytes: 4096 }],
    ['an unknown field', { extra: 1 }],
  ])('refuses %s', (_, change) => {
    const text = JSON.stringify({ ...manifestOf([]), ...change });

    expect(() => parseManifest(text, 'here')).toThrow(/^here is damaged/);
  });

  it('refuses what is not JSON', () => {
    expect(() => parseManifest('{', 'here')).toThrow('here is damaged: it is not JSON');
    expect(() => parsePublishedManifest('', 'there')).toThrow('there is damaged');
  });
});

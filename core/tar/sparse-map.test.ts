import { expect, test } from 'vitest';
import { isOldSparse, SparseMap } from './sparse-map.ts';

/** Map and data of a member, in pieces of so many bytes. */
function fits(map: string, memberBytes: number, pieceBytes = 7): boolean {
  const bytes = new Uint8Array(memberBytes);
  bytes.set(new TextEncoder().encode(map).subarray(0, memberBytes));
  const sparse = new SparseMap();
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    sparse.push(bytes.subarray(at, at + pieceBytes));
  }
  return sparse.fits(memberBytes);
}

test('a map that names what the member has fits, however it comes in pieces', () => {
  expect(fits('1\n0\n512\n', 1024)).toBe(true);
  expect(fits('1\n0\n512\n', 1024, 1)).toBe(true);
  expect(fits('2\n0\n513\n4096\n0\n', 512 + 1024)).toBe(true);
  expect(fits('0\n', 512)).toBe(true);
});

test.each([
  ['names more than there is', '1\n0\n1024\n', 1024],
  ['names less than there is', '1\n0\n512\n', 2048],
  ['ends before its last number', '2\n0\n512\n', 1024],
  ['has a number that is none', '1\n-1\n512\n', 1024],
  ['has an empty number', '1\n\n512\n', 1024],
  ['has a number that no file has', '1\n0\n9999999999999999\n', 1024],
  ['is not there', '', 0],
])('a map that %s does not fit', (_, map, memberBytes) => {
  expect(fits(map, memberBytes)).toBe(false);
});

test('the keys of the formats before 1.0 are known', () => {
  expect(['map', 'numblocks', 'offset', 'size'].map((key) => isOldSparse(`GNU.sparse.${key}`))).toEqual(
    Array.from({ length: 4 }, () => true),
  );
  expect(['GNU.sparse.name', 'GNU.sparse.realsize', 'path'].map(isOldSparse)).toEqual([false, false, false]);
});

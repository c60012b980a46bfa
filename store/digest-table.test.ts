import { describe, expect, it } from 'vitest';
import { noise } from '../test/harness/checkpoint-dir.ts';
import { DigestTable } from './digest-table.ts';

describe('DigestTable', () => {
  it('numbers 5000 digests in order of first sight and finds each again', () => {
    const digests = Array.from({ length: 5000 }, (_, index) => noise(32, `digest ${index}`));
    const table = new DigestTable();

    const numbers = digests.map((digest) => table.add(digest));

    expect(numbers).toEqual(digests.map((_, index) => index));
    expect(digests.map((digest) => table.add(digest))).toEqual(numbers);
    expect(digests.map((digest) => table.find(digest))).toEqual(numbers);
    expect(digests.map((digest, index) => Buffer.compare(digest, table.digestAt(index)))).toEqual(numbers.map(() => 0));
    expect(table.count).toBe(5000);
    expect(table.find(noise(32, 'another'))).toBeUndefined();
  });

  it('tells digests apart whose first 31 bytes are equal', () => {
    const table = new DigestTable();
    const digests = Array.from({ length: 256 }, (_, last) => Buffer.concat([Buffer.alloc(31, 7), Buffer.from([last])]));

    expect(digests.map((digest) => table.add(digest))).toEqual(digests.map((_, index) => index));
  });
});

import { describe, expect, it } from 'vitest';
import { multipartPartBytes } from './s3.ts';

const MiB = 2 ** 20;

describe('multipartPartBytes', () => {
  it.each([
    [96 * MiB, 8 * MiB],
    [9000 * 8 * MiB, 8 * MiB],
    [9000 * 8 * MiB + 1, 9 * MiB],
    [5 * 2 ** 40, 583 * MiB],
  ])('gives an object of %d bytes parts of %d', (bytes, expected) => {
    expect(multipartPartBytes(bytes)).toBe(expected);
    expect(Math.ceil(bytes / expected)).toBeLessThanOrEqual(10_000);
  });
});

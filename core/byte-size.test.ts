import { describe, expect, it } from 'vitest';
import { parseByteSize } from './byte-size.ts';

describe('parseByteSize', () => {
  it.each([
    ['0', 0],
    ['4096', 4096],
    ['64GiB', 64 * 2 ** 30],
    ['1.5 TiB', 1.5 * 2 ** 40],
    ['500MB', 500_000_000],
    ['1B', 1],
  ])('reads %s', (text, bytes) => {
    expect(parseByteSize(text)).toBe(bytes);
  });

  it.each(['', 'GiB', '-1', '1e3', '64gib', '1 constructor', '1,5GiB', '9999999TiB', '0x10'])('refuses %j', (text) => {
    expect(parseByteSize(text)).toBeUndefined();
  });
});

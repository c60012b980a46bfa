import { describe, expect, it } from 'vitest';
import { formatBytes, formatDuration, formatTime, parseDuration } from './units.ts';

describe('parseDuration', () => {
  it.each([
    ['500ms', 500],
    ['60s', 60_000],
    ['1.5m', 90_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
    [' 5m ', 300_000],
  ])('reads %j', (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  it.each([['60'], ['s'], ['-5s'], ['5 s'], ['5sec'], ['1h30m'], ['']])('refuses %j', (text) => {
    expect(parseDuration(text)).toBeUndefined();
  });
});

describe('formatDuration', () => {
  it.each([
    [0, '0 ms'],
    [87.4, '87 ms'],
    [999.4, '999 ms'],
    [999.6, '1.00 s'],
    [1250, '1.25 s'],
    [59_990, '60.0 s'],
    [59_999, '1 min 00 s'],
    [184_000, '3 min 04 s'],
    [3_599_900, '1 h 00 min'],
    [7_500_000, '2 h 05 min'],
  ])('writes %d ms as %j', (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });
});

describe('formatBytes', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [13_841_203, '13.2 MiB'],
    [1024 ** 3 - 1, '1.00 GiB'],
    [1.5 * 1024 ** 3, '1.50 GiB'],
    [3 * 1024 ** 4, '3.00 TiB'],
    [5000 * 1024 ** 4, '5000.00 TiB'],
  ])('writes %d bytes as %j', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });
});

describe('formatTime', () => {
  it('writes an ISO time to the second, in UTC', () => {
    expect(formatTime('2026-03-01T09:30:12.345Z')).toBe('2026-03-01 09:30:12');
  });

  it('leaves a text that is no time as it is', () => {
    expect(formatTime('-')).toBe('-');
  });
});

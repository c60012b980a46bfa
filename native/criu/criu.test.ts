import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { criuConfigText } from './config-file.ts';
import { criuRunIdIn, dumpErrorLines, errorLinesIn } from './log.ts';
import { decodeDumpStats } from './stats.ts';
import { compareVersions } from './version.ts';

const LOG = `(00.000000) CRIU run id = 33e9d00b-6c11-4891-8ec0-e01f881374b8
(00.000000) CRIU run id = 88d04616-dcf2-4257-95d0-d6d26cd9eea8
(00.026392) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.030000) Warn  (criu/x.c:1): harmless
(00.037833) Error (criu/sk-inet.c:200): Connected TCP socket, consider using --tcp-established option.
(00.037842) Error (criu/cr-dump.c:1975): Dumping FAILED.
`;

test('the error lines of a log come without times and without noise', () => {
  expect(errorLinesIn(LOG)).toEqual([
    'Error (criu/sk-inet.c:200): Connected TCP socket, consider using --tcp-established option.',
    'Error (criu/cr-dump.c:1975): Dumping FAILED.',
  ]);
});

test('a log that was never written has no error lines', async () => {
  expect(await dumpErrorLines('/nowhere/dump.log')).toEqual([]);
});

test('the run id is the last one that CRIU logged', () => {
  expect(criuRunIdIn(LOG)).toBe('88d04616-dcf2-4257-95d0-d6d26cd9eea8');
  expect(criuRunIdIn('')).toBeUndefined();
});

test('a configuration file has one option a line', () => {
  expect(criuConfigText([{ option: 'tcp-close' }, { option: 'ghost-limit', value: '4096' }])).toBe(
    'tcp-close\nghost-limit 4096\n',
  );
});

test.each([['a#b'], ['a b'], ['a"b'], ['a\nb'], ['a\\b'], ['']])('the value %j is refused', (value) => {
  expect(() => criuConfigText([{ option: 'action-script', value }])).toThrow(/cannot hold/);
});

/** stats-dump of a real dump by CRIU 4.2.1. */
const STATS = Buffer.from(
  '4059105506330957230000000a2108e9031085c80418d305208b01282f300038214000480050085808600068007000',
  'hex',
);

test('statistics of a dump are decoded', () => {
  expect(decodeDumpStats(STATS)).toEqual({
    freezingTimeUs: 489,
    frozenTimeUs: 74_757,
    memdumpTimeUs: 723,
    memwriteTimeUs: 139,
    pagesScanned: 47,
    pagesSkippedParent: 0,
    pagesWritten: 33,
    irmapResolve: 0,
    pagesLazy: 0,
  });
});

test('statistics cut anywhere are refused', () => {
  for (let length = 0; length < STATS.length; length += 1) {
    expect(() => decodeDumpStats(STATS.subarray(0, length)), `cut at ${length}`).toThrow(/not readable/);
  }
});

test.each([
  ['4.2.1', '4.2', 1],
  ['4.2', '4.2.0', 0],
  ['3.19', '4.2', -1],
  ['4.10', '4.9', 1],
  ['6.18.44-fc', '6.18.44', 0],
])('version %s against %s', (left, right, sign) => {
  expect(Math.sign(compareVersions(left, right))).toBe(sign);
});

test('a file that is not statistics is refused', () => {
  const dir = mkdtempSync(join(tmpdir(), 'kybernate-criu-'));
  writeFileSync(join(dir, 'x'), 'something else altogether');

  expect(() => decodeDumpStats(readFileSync(join(dir, 'x')))).toThrow(/wrong magic/);
  rmSync(dir, { recursive: true });
});

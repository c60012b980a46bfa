import { describe, expect, it } from 'vitest';

import { readReport } from './test-report.ts';

function short(file: string) {
  return file.replace('/r/', '');
}

function file(status: string, tests: Record<string, string>, message?: string) {
  const assertionResults = Object.entries(tests).map(([fullName, state]) => ({ fullName, status: state }));
  return { name: '/r/a.test.ts', status, assertionResults, ...(message === undefined ? {} : { message }) };
}

function read(exitCode: number, ...files: object[]) {
  return readReport('unit', exitCode, JSON.stringify({ testResults: files }), short);
}

describe('readReport counts', () => {
  it('each test by its state', () => {
    const tally = read(1, file('failed', { good: 'passed', bad: 'failed', off: 'skipped', later: 'todo' }));

    expect(tally).toEqual({
      passed: 1,
      failures: ['unit › a.test.ts › bad'],
      skipped: ['unit › a.test.ts › off', 'unit › a.test.ts › later'],
    });
  });

  it('tells of a failure what each try met, and where', () => {
    const failureMessages = [
      'AssertionError: \u001B[31mexpected 1 to be 2\u001B[39m\n    at /r/a.test.ts:3:1\n    at runTest (node:x)',
      'Error: a\nb\nc\nd\ne',
    ];
    const failed = { name: '/r/a.test.ts', status: 'failed' };

    const tally = read(1, { ...failed, assertionResults: [{ fullName: 'bad', status: 'failed', failureMessages }] });

    expect(tally.failures).toEqual([
      [
        'unit › a.test.ts › bad',
        'AssertionError: expected 1 to be 2',
        '    at /r/a.test.ts:3:1',
        'Error: a',
        'b',
        'c',
        'd',
      ].join('\n      '),
    ]);
  });

  it('a file that cannot be loaded as one failure', () => {
    expect(read(1, file('failed', {}, 'SyntaxError: no\nat x'))).toMatchObject({
      failures: ['unit › a.test.ts: SyntaxError: no'],
    });
  });

  it('an exit code without a failed test as one failure', () => {
    expect(read(1, file('passed', { good: 'passed' }))).toMatchObject({
      passed: 1,
      failures: ['unit: ended with 1, though no test failed'],
    });
  });

  it('a missing report as one failure, whatever the exit code', () => {
    expect(readReport('system', 0, undefined, short).failures).toHaveLength(1);
  });
});

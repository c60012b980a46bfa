import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listenToSpans, type PastSpan } from '../core/spans.ts';
import { appendJournal, type JournalEntry } from './journal.ts';
import { operationPaths, writeJson } from './operation.ts';
import { forgetSpans, spansOfJournal, withRunnerSpans } from './runner-spans.ts';

function entry(atMs: number, step: JournalEntry['step'], state: JournalEntry['state'] = 'done'): JournalEntry {
  return { at: new Date(atMs).toISOString(), step, state };
}

const CAPTURE = [
  entry(0, 'armed'),
  entry(10, 'freezing', 'begin'),
  entry(12, 'frozen'),
  entry(90, 'dumped'),
  entry(91, 'captured'),
  entry(92, 'thawed', 'begin'),
  entry(95, 'thawed'),
  entry(96, 'resumed'),
];

const told = (spans: readonly PastSpan[]): string[] =>
  spans.map(
    ({ name, startMs, endMs, error }) => `${name} ${startMs}-${endMs}${error === undefined ? '' : ` ${error}`}`,
  );

describe('the spans of a journal', () => {
  it('are its steps, and the freeze from the first write to the thaw', () => {
    expect(told(spansOfJournal(CAPTURE))).toEqual([
      'runner armed 0-0',
      'runner frozen 10-12',
      'runner dumped 12-90',
      'runner captured 90-91',
      'runner thawed 92-95',
      'freeze 10-95',
      'runner resumed 95-96',
    ]);
  });

  it('of a dump that was undone end with the undo', () => {
    const undone = [
      entry(0, 'armed'),
      entry(10, 'freezing', 'begin'),
      entry(50, 'undone', 'failed'),
      entry(60, 'undone'),
    ];

    expect(told(spansOfJournal(undone, 1))).toEqual([
      'runner undone 10-50 undone failed',
      'runner undone 50-60',
      'freeze 10-60',
    ]);
  });
});

describe('a step of the runner', () => {
  let runDir = '';
  const operationId = '0123456789abcdef0123456789abcdef';
  const past: PastSpan[][] = [];
  beforeEach(() => {
    runDir = mkdtempSync(join(tmpdir(), 'runner-spans-'));
    mkdirSync(operationPaths({ runDir }, operationId).dir, { recursive: true });
    listenToSpans({
      during: (_name, _fields, act) => act(),
      within: (_parent, act) => act(),
      past: (spans) => past.push([...spans]),
      current: () => undefined,
    });
  });
  afterEach(() => {
    listenToSpans(undefined);
    forgetSpans(operationId);
    past.length = 0;
    rmSync(runDir, { recursive: true, force: true });
  });

  it('tells what was written meanwhile, once, and what the guard did', async () => {
    const { journal, guardReport } = operationPaths({ runDir }, operationId);
    const step = (name: JournalEntry['step']): Promise<void> =>
      withRunnerSpans({ runDir }, operationId, async () => appendJournal(journal, { step: name, state: 'done' }));

    await step('armed');
    writeJson(guardReport, { at: new Date(5).toISOString(), cause: 'runner-gone', tookMs: 7 });
    await expect(
      withRunnerSpans({ runDir }, operationId, async () => {
        appendJournal(journal, { step: 'undone', state: 'done' });
        throw new Error('as it failed');
      }),
    ).rejects.toThrow('as it failed');

    expect(past.map((spans) => spans.map(({ name }) => name))).toEqual([
      ['runner armed'],
      ['runner undone', 'freeze guard'],
    ]);
    expect(past[1]?.[1]).toMatchObject({ startMs: 5, endMs: 12, error: 'runner-gone' });
  });

  it('reads no journal when nobody listens', async () => {
    listenToSpans(undefined);

    expect(await withRunnerSpans({ runDir: '/nowhere' }, operationId, async () => 'done')).toBe('done');
  });
});

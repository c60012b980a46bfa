import { describe, expect, test } from 'vitest';
import { releaseDueMs, type JournalEntry } from './journal.ts';

const budgets = { freezeBudgetMs: 60_000, holdBudgetMs: 600_000 };
const at = (seconds: number): string => new Date(seconds * 1000).toISOString();
const freezing: JournalEntry = { at: at(10), step: 'freezing', state: 'begin' };
const held: JournalEntry = { at: at(20), step: 'held', state: 'done' };

describe('the time by which a runner lets the workload go', () => {
  const cases: Record<string, { entries: JournalEntry[]; dueMs: number | undefined }> = {
    'not frozen yet': { entries: [{ at: at(1), step: 'armed', state: 'done' }], dueMs: undefined },
    'in the freeze: its budget': { entries: [freezing], dueMs: 70_000 },
    'dumped: still the budget of the freeze': {
      entries: [freezing, { at: at(15), step: 'dumped', state: 'done' }],
      dueMs: 70_000,
    },
    'held: the budget of the hold': { entries: [freezing, held], dueMs: 620_000 },
    'a thaw that hangs after the hold': {
      entries: [freezing, held, { at: at(30), step: 'thawed', state: 'begin' }],
      dueMs: 620_000,
    },
    'undone and tried again on a busy GPU: the budget begins anew': {
      entries: [
        { at: at(10), step: 'gpu-locking', state: 'begin' },
        { at: at(20), step: 'undone', state: 'done' },
        { at: at(30), step: 'gpu-locking', state: 'begin' },
      ],
      dueMs: 90_000,
    },
    'running again': { entries: [freezing, { at: at(30), step: 'resumed', state: 'done' }], dueMs: undefined },
  };
  test.each(Object.entries(cases))('%s', (_name, { entries, dueMs }) => {
    expect(releaseDueMs(entries, budgets)).toBe(dueMs);
  });
});

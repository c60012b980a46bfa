import { describe, expect, test } from 'vitest';
import type { RunnerStep } from '../core/phases.ts';
import { mayBeFrozen, mayHoldGpu, mayStandStill, mustBeUndone, releaseDueMs, type JournalEntry } from './journal.ts';

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
    'locked: the budget runs from there, not from the freeze': {
      entries: [{ at: at(5), step: 'gpu-locking', state: 'begin' }, freezing],
      dueMs: 65_000,
    },
    'asked to come to rest: the time that the hook has': {
      entries: [{ at: at(5), step: 'quiescing', state: 'begin', data: { allowMs: 30_000 } }],
      dueMs: 35_000,
    },
    'told to go on: the time that the hook has, when that is longer': {
      entries: [
        { at: at(5), step: 'gpu-locking', state: 'begin' },
        { at: at(60), step: 'gpu-restored', state: 'begin', data: { allowMs: 30_000 } },
      ],
      dueMs: 90_000,
    },
    'locked again after an undo: from the second lock': {
      entries: [
        { at: at(5), step: 'gpu-locking', state: 'begin' },
        { at: at(6), step: 'undone', state: 'done' },
        { at: at(50), step: 'gpu-locking', state: 'begin' },
      ],
      dueMs: 110_000,
    },
    'running again': { entries: [freezing, { at: at(30), step: 'resumed', state: 'done' }], dueMs: undefined },
  };
  test.each(Object.entries(cases))('%s', (_name, { entries, dueMs }) => {
    expect(releaseDueMs(entries, budgets)).toBe(dueMs);
  });
});

test.each([
  ['freezing begin', true],
  ['held done, handover done', false],
  ['held done, handover failed', true],
  ['held done, handover done, killed begin', true],
  ['held done, handover done, killed begin, killed done', false],
  ['freezing begin, thawed done', false],
])('after %s somebody must let it go or end it: %s', (steps, expected) => {
  const entries = steps.split(', ').map((text): JournalEntry => {
    const [step, state] = text.split(' ') as [RunnerStep, JournalEntry['state']];
    return { at: at(1), step, state };
  });

  expect(mustBeUndone(entries)).toBe(expected);
});

describe('what a crash after an entry may leave', () => {
  const cases: Record<string, { steps: string; standsStill: boolean; holdsGpu: boolean }> = {
    'nothing yet': { steps: 'armed done', standsStill: false, holdsGpu: false },
    'a workload that waits for its hook': { steps: 'quiescing begin', standsStill: false, holdsGpu: true },
    'a lock': { steps: 'gpu-locking begin', standsStill: false, holdsGpu: true },
    'a save': { steps: 'gpu-locking begin, gpu-saved done', standsStill: false, holdsGpu: true },
    'a freeze beside the save': { steps: 'gpu-locking begin, freezing begin', standsStill: true, holdsGpu: true },
    'a hold': { steps: 'gpu-locking begin, freezing begin, held done', standsStill: true, holdsGpu: true },
    'a thaw, and the save still': {
      steps: 'gpu-locking begin, freezing begin, thawed begin, thawed done',
      standsStill: false,
      holdsGpu: true,
    },
    'a restore that was begun': {
      steps: 'gpu-locking begin, freezing begin, thawed done, gpu-restoring begin',
      standsStill: false,
      holdsGpu: true,
    },
    'limits that are raised': {
      steps: 'gpu-locking begin, freezing begin, thawed done, gpu-restoring begin, gpu-restored begin',
      standsStill: false,
      holdsGpu: true,
    },
    'nothing more': {
      steps: 'gpu-locking begin, freezing begin, thawed done, gpu-restoring begin, gpu-restored done',
      standsStill: false,
      holdsGpu: false,
    },
    'an undo that was begun': { steps: 'gpu-locking begin, undone begin', standsStill: true, holdsGpu: true },
    'an undo that is done': {
      steps: 'gpu-locking begin, undone begin, undone done',
      standsStill: false,
      holdsGpu: false,
    },
    'a source that was ended': {
      steps: 'gpu-locking begin, held done, killed done',
      standsStill: false,
      holdsGpu: false,
    },
    'a freeze without a GPU': { steps: 'freezing begin', standsStill: true, holdsGpu: false },
  };
  test.each(Object.entries(cases))('%s', (_name, { steps, standsStill, holdsGpu }) => {
    const entries = steps.split(', ').map((text): JournalEntry => {
      const [step, state] = text.split(' ') as [RunnerStep, 'begin' | 'done'];
      return { at: at(1), step, state };
    });

    expect([mayStandStill(entries), mayHoldGpu(entries)]).toEqual([standsStill, holdsGpu]);
    expect(mayBeFrozen(entries)).toBe(standsStill || holdsGpu);
  });
});

import { describe, expect, test } from 'vitest';
import type { RunnerStep } from '../core/phases.ts';
import { mayBeFrozen, mayHoldGpu, mayStandStill, mustBeUndone, type JournalEntry } from './journal.ts';

const at = (seconds: number): string => new Date(seconds * 1000).toISOString();

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

import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { PhaseTimer } from './phase-timer.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const after = (ms: number): unknown => vi.advanceTimersByTime(ms);

test('parts follow one another and add up, also when the times are asked in between', () => {
  const timer = new PhaseTimer();
  timer.part('gpu-lock');
  after(5);
  timer.part('gpu-save');
  after(20);
  expect(timer.times()).toMatchObject({ totalMs: 25, parts: { 'gpu-lock': 5, 'gpu-save': 20 } });
  after(10);
  timer.part('thaw');
  after(1);

  expect(timer.times()).toMatchObject({
    totalMs: 36,
    unaccountedMs: 0,
    parts: { 'gpu-lock': 5, 'gpu-save': 30, thaw: 1 },
  });
});

test('the GPU pauses from the first lock to the last unlock, around the freeze', () => {
  const timer = new PhaseTimer();
  timer.gpuPaused();
  after(10);
  timer.frozen();
  after(20);
  expect(timer.times()).toMatchObject({ freezeMs: 20, gpuPauseMs: 30 });
  timer.thawed();
  after(5);
  timer.gpuRuns();
  after(100);

  expect(timer.times()).toMatchObject({ freezeMs: 20, gpuPauseMs: 35 });
});

test('without a GPU there is no pause to tell', () => {
  expect(new PhaseTimer().times()).not.toHaveProperty('gpuPauseMs');
});

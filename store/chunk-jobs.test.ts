import { expect, test } from 'vitest';
import { groupForJobs, JOB_BYTES } from './chunk-jobs.ts';

test('neighbours make one job up to its bytes, and a larger chunk one of its own', () => {
  const half = JOB_BYTES / 2;

  expect(groupForJobs([half, half, 1, JOB_BYTES + 1, 0, half], (bytes) => bytes)).toEqual([
    [half, half],
    [1],
    [JOB_BYTES + 1],
    [0, half],
  ]);
  expect(groupForJobs([0, 1], (bytes) => bytes)).toEqual([[0, 1]]);
  expect(groupForJobs([], () => 1)).toEqual([]);
});

import { expect, test } from 'vitest';
import { planRound } from '../chaos/plan.ts';

test('a seed and a number give the same round of the chaos run, whoever plays it', () => {
  const jobs = [{ isPlain: true }, {}, { hasGpu: true }];
  const rounds = [0, 1, 2].map((number) => planRound(4711, number, jobs));

  expect([0, 1, 2].map((number) => planRound(4711, number, jobs))).toEqual(rounds);
  expect(new Set([...rounds, planRound(4712, 0, jobs)].map((round) => JSON.stringify(round.strikes))).size).toBe(4);
});

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { runExeca } from '../../native/run/run-execa.ts';
import { planRound } from '../chaos/plan.ts';
import { SOAK } from '../harness/soak.ts';

const KILLS = SOAK ? 60 : 20;
const TIMEOUT_MS = 600_000;

test('a seed and a number give the same round of the chaos run, whoever plays it', () => {
  const jobs = [{ isPlain: true }, {}, { hasGpu: true }];
  const rounds = [0, 1, 2].map((number) => planRound(4711, number, jobs));

  expect([0, 1, 2].map((number) => planRound(4711, number, jobs))).toEqual(rounds);
  expect(new Set([...rounds, planRound(4712, 0, jobs)].map((round) => JSON.stringify(round.strikes))).size).toBe(4);
});

// A seed of its own in every run: what it finds is played again with `node test/chaos/main.ts --seed=… --round=… --fresh`.
test(
  `${KILLS} kills at any moment lose no workload, halve no checkpoint and leave nothing behind`,
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'kybernate-chaos-'));
    try {
      const args = [`--kills=${KILLS}`, '--fresh', `--results=${join(dir, 'results.json')}`];
      const result = await runExeca(process.execPath, [join(import.meta.dirname, '../chaos/main.ts'), ...args], {
        timeoutMs: TIMEOUT_MS - 60_000,
      });

      const lines = result.stdout.trimEnd().split('\n');
      const found = lines.filter((line) => /^chaos: seed|^round|VIOLATION|kept in/.test(line)).join('\n');
      expect(lines.at(-1), found).toMatch(/^chaos: kills=\d+ lost=0 stuck=0 half=0 leaked=0 longest_freeze_ms=\d+$/);
      expect(result.exitCode, `${found}\n${result.stderr}`).toBe(0);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  },
  TIMEOUT_MS,
);

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { planRound } from '../chaos/plan.ts';

const MAIN = fileURLToPath(new URL('../chaos/main.ts', import.meta.url));
/** `make chaos KILLS=1000` is the long run. */
const KILLS = 10;
/** The same rounds each time; the long run takes others. */
const SEED = 10;
const TIMEOUT_MS = 900_000;

test('a seed and a number give the same round, whoever plays it', () => {
  const jobs = [{ isPlain: true }, {}, { hasGpu: true }];
  const rounds = [0, 1, 2].map((number) => planRound(4711, number, jobs));

  expect([0, 1, 2].map((number) => planRound(4711, number, jobs))).toEqual(rounds);
  expect(new Set([...rounds, planRound(4712, 0, jobs)].map((round) => JSON.stringify(round.strikes))).size).toBe(4);
});

test(
  `${KILLS} kills in the middle of checkpoints and restores lose no workload, and leave nothing`,
  { timeout: TIMEOUT_MS },
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'kybernate-chaos-'));
    let output = '';
    try {
      const args = [MAIN, `--kills=${KILLS}`, `--seed=${SEED}`, '--fresh', `--results=${join(dir, 'results.json')}`];
      const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding('utf8').on('data', (text: string) => (output += text));
      }
      await once(child, 'close');
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }

    // The message of a failure has the seed, and who was struck when.
    expect(output.trimEnd().split('\n').at(-1), output.slice(-20_000)).toMatch(
      /^chaos: kills=\d+ lost=0 stuck=0 half=0 leaked=0 longest_freeze_ms=\d+$/,
    );
  },
);

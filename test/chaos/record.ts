/* The sum of all rounds, written after each: a run that ends in the middle costs its last round. */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { randomInt } from 'node:crypto';
import { dirname } from 'node:path';
import * as z from 'zod';
import type { RoundReport } from './round.ts';

const tallySchema = z.object({
  seed: z.number().int(),
  rounds: z.number().int(),
  kills: z.number().int(),
  /** strikes that kill nothing: store, disk, cancel, terminate, reset */
  others: z.number().int(),
  lost: z.number().int(),
  stuck: z.number().int(),
  half: z.number().int(),
  leaked: z.number().int(),
  /** pauses beyond the budget */
  frozen: z.number().int(),
  longestFreezeMs: z.number(),
  longestHoldMs: z.number(),
  restores: z.number().int(),
  /** workloads that a blow ended which ends them under the stock runtime too, all brought back */
  endedAsStock: z.number().int(),
  seconds: z.number(),
  killed: z.record(z.string(), z.number().int()),
});
export type Tally = z.output<typeof tallySchema>;

/** Goes on with what is there, unless another seed is asked for. */
export function loadTally(file: string, wish: { readonly seed?: number; readonly fresh: boolean }): Tally {
  const before = wish.fresh ? undefined : readTally(file);
  if (before !== undefined && (wish.seed === undefined || wish.seed === before.seed)) {
    return before;
  }
  return {
    seed: wish.seed ?? randomInt(1_000_000),
    rounds: 0,
    kills: 0,
    others: 0,
    lost: 0,
    stuck: 0,
    half: 0,
    leaked: 0,
    frozen: 0,
    longestFreezeMs: 0,
    longestHoldMs: 0,
    restores: 0,
    endedAsStock: 0,
    seconds: 0,
    killed: {},
  };
}

function readTally(file: string): Tally | undefined {
  try {
    return tallySchema.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}

export function addRound(tally: Tally, report: RoundReport, ms: number, file: string): void {
  const count = (kind: string): number => (report.violations.some((one) => one.kind === kind) ? 1 : 0);
  tally.rounds += 1;
  for (const { kills, what } of report.hits) {
    tally.kills += kills;
    tally.others += kills > 0 || what.startsWith('kill ') ? 0 : 1;
    const name = what.replace(/ \(.*/, '').replace(/^kill /, '');
    if (kills > 0) {
      tally.killed[name] = (tally.killed[name] ?? 0) + kills;
    }
  }
  tally.lost += count('lost');
  tally.stuck += count('stuck');
  tally.half += count('half');
  tally.leaked += count('leaked');
  tally.frozen += count('freeze');
  tally.longestFreezeMs = Math.max(tally.longestFreezeMs, Math.round(report.longestFreezeMs));
  tally.longestHoldMs = Math.max(tally.longestHoldMs, Math.round(report.longestHoldMs));
  tally.restores += report.restores;
  tally.endedAsStock += report.endedAsStock;
  tally.seconds = Math.round(tally.seconds + ms / 1000);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, `${JSON.stringify(tally, undefined, 1)}\n`);
  renameSync(`${file}.new`, file);
}

/** Read by people and by scripts: exactly this form. */
export function lastLine({ kills, lost, stuck, half, leaked, longestFreezeMs }: Tally): string {
  return `chaos: kills=${kills} lost=${lost} stuck=${stuck} half=${half} leaked=${leaked} longest_freeze_ms=${longestFreezeMs}`;
}

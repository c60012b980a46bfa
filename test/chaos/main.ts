/*
 * node test/chaos/main.ts [--kills=60] [--seed=n] [--round=n] [--fresh]: kills everything there is, at moments that the
 * seed chooses, while checkpoints and restores of real containers are under way, and looks what became of them.
 * Results add up in `<cache>/chaos/results.json` until --fresh: a run that was interrupted goes on at its next round.
 * The last line is `chaos: kills=… lost=… stuck=… half=… leaked=… longest_freeze_ms=…` over all of them.
 */
import { cpSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheDir } from '../../cli/dev/paths.ts';
import { messageOf } from '../../core/errors.ts';
import { type Job, makeJobs } from './jobs.ts';
import { describeRound, planRound } from './plan.ts';
import { addRound, lastLine, loadTally, type Tally } from './record.ts';
import { Rig } from './rig.ts';
import type { Violation } from './judge.ts';
import { Player, type RoundReport } from './round.ts';
import { journals } from './traces.ts';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '60' },
    seed: { type: 'string' },
    round: { type: 'string' },
    fresh: { type: 'boolean', default: false },
    results: { type: 'string' },
  },
});

interface Stage {
  readonly rig: Rig;
  readonly jobs: readonly Job[];
  readonly player: Player;
}

async function openStage(): Promise<Stage> {
  const rig = await Rig.open();
  const jobs = await makeJobs(rig);
  for (const job of jobs) {
    await job.start();
  }
  const player = new Player(rig, jobs);
  await player.prepare();
  return { rig, jobs, player };
}

async function closeStage({ rig, jobs, player }: Stage): Promise<void> {
  player.close();
  for (const job of jobs) {
    await job.close();
  }
  await rig.close();
}

function tell({ hits, outcomes, violations, longestFreezeMs }: RoundReport): void {
  hits.forEach(({ what, job, step, kills }) => console.log(`  ${what} of ${job} at "${step}": ${kills}`));
  outcomes.forEach((outcome) => console.log(`  ${outcome}`));
  console.log(`  longest freeze ${Math.round(longestFreezeMs)} ms`);
  violations.forEach(({ kind, what }) => console.log(`  VIOLATION ${kind}: ${what}`));
}

/** Everything that explains a violation, where it stays. */
function keep(stage: Stage, place: string, violations: readonly Violation[], report: unknown): void {
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, 'violations.json'), JSON.stringify({ violations, report }, undefined, 1));
  writeFileSync(join(place, 'journals.txt'), journals(stage.rig));
  for (const dir of [join(stage.rig.dir, 'logs'), join(stage.rig.stateDir, 'logs')].filter(existsSync)) {
    cpSync(dir, join(place, dir.endsWith('node/logs') ? 'operations' : 'services'), { recursive: true });
  }
  console.log(`  kept in ${place}`);
}

async function run(): Promise<Tally> {
  const base = join(cacheDir(process.env), 'chaos');
  const file = values.results ?? join(base, 'results.json');
  const tally = loadTally(file, {
    fresh: values.fresh,
    ...(values.seed === undefined ? {} : { seed: Number(values.seed) }),
  });
  console.log(`chaos: seed ${tally.seed}, ${tally.kills} of ${values.kills} kills so far; results in ${file}`);
  const only = values.round === undefined ? undefined : Number(values.round);
  let stage: Stage | undefined;
  const end = new AbortController();
  process.once('SIGTERM', () => end.abort()).once('SIGINT', () => end.abort());
  try {
    while (!end.signal.aborted && tally.kills < Number(values.kills)) {
      stage ??= await openStage();
      const round = planRound(
        tally.seed,
        only ?? tally.rounds,
        stage.jobs.map(({ kind }) => kind),
      );
      console.log(describeRound(round));
      const begun = performance.now();
      const report = await stage.player.play(round).catch((error: unknown) => failed(error));
      tell(report);
      addRound(tally, report, performance.now() - begun, file);
      if (report.violations.length > 0) {
        const place = join(base, `seed-${tally.seed}-round-${round.number}`);
        keep(stage, place, report.violations, { round, ...report });
        // A node that is not as it was would be blamed in every round from now on.
        await closeStage(stage);
        stage = undefined;
      }
      console.log(`  ${lastLine(tally)}`);
      if (only !== undefined) {
        break;
      }
    }
  } finally {
    if (stage !== undefined) {
      await closeStage(stage);
    }
  }
  return tally;
}

/** The run itself could not go on: as bad as a workload that is stuck. */
function failed(error: unknown): RoundReport {
  const what = error instanceof Error ? (error.stack ?? error.message) : messageOf(error);
  return {
    hits: [],
    outcomes: [],
    violations: [{ kind: 'stuck', what }],
    longestFreezeMs: 0,
    longestHoldMs: 0,
    endedAsStock: 0,
    restores: 0,
  };
}

const tally = await run();
const sum = tally.lost + tally.stuck + tally.half + tally.leaked + tally.frozen;
console.log(lastLine(tally));
process.exitCode = sum === 0 ? 0 : 1;

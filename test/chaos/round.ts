/*
 * One round: an operation for every job and the strikes of the plan, then quiet, then what must hold. A job that was
 * ended by what ends it under any runtime is brought back from its newest committed checkpoint.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../core/errors.ts';
import { Copies } from './copies.ts';
import type { Job } from './jobs.ts';
import { type Attempt, Judge, newestOf, outcomeText, type Violation } from './judge.ts';
import { type Running, startCheckpoint, startRestore } from './operate.ts';
import type { Round, Strike, Wish } from './plan.ts';
import type { Rig } from './rig.ts';
import { IdleTicker } from './sequence.ts';
import { reached, type Target } from './moments.ts';
import { type Hit, strike } from './strike.ts';
import { difference, traces } from './traces.ts';

/** An undo waits at most for the next look of the reconciliation. */
const QUIET_MS = 75_000;
const LOOK_MS = 500;

export interface RoundReport {
  readonly hits: readonly Hit[];
  readonly outcomes: readonly string[];
  readonly violations: readonly Violation[];
  readonly longestFreezeMs: number;
  readonly longestHoldMs: number;
  readonly endedAsStock: number;
  readonly restores: number;
}

export class Player {
  readonly #rig: Rig;
  readonly #jobs: readonly Job[];
  readonly #ticker: IdleTicker;
  readonly #copies: Copies;
  #baseline: readonly string[] = [];

  constructor(rig: Rig, jobs: readonly Job[]) {
    this.#rig = rig;
    this.#jobs = jobs;
    this.#ticker = new IdleTicker(rig.dir);
    this.#copies = new Copies(rig);
  }

  /** A committed checkpoint of every job, and the list of what lies on the node when nothing happens. */
  async prepare(): Promise<void> {
    const wish: Wish = { kind: 'checkpoint', after: 'resume', durability: 'remote', engine: 'runc', releases: false };
    for (const job of this.#jobs) {
      const attempt = await this.#begin(job, wish);
      const { status, error } = (attempt.target.ended = await attempt.running.end);
      if (status !== 'COMPLETED') {
        throw new Error(`the first checkpoint of ${job.id}: ${status} ${error}`);
      }
      await this.#judge().noteCommitted(attempt);
    }
    this.#baseline = await traces(this.#rig, this.#jobs, this.#copies.local);
  }

  async play(round: Round): Promise<RoundReport> {
    const judge = this.#judge();
    const hits: Hit[] = [];
    const outcomes: string[] = [];
    const turnsOf = async (job: Job, at: number): Promise<void> => {
      for (const [turn, wish] of (round.wishes[at] ?? []).entries()) {
        const strikes = round.strikes.filter((one) => one.job === at && one.turn === turn);
        const { attempt, struck } = await this.#turn(job, wish, strikes);
        hits.push(...struck);
        outcomes.push(outcomeText(job, attempt.target.ended));
        await judge.judge(attempt, struck);
      }
    };
    await Promise.all(this.#jobs.map(turnsOf));
    this.#rig.proxy.script();
    await this.#rig.ready();
    (await this.#leftOvers(judge)).forEach((what) => judge.violated('leaked', what));
    return {
      hits,
      outcomes,
      violations: judge.violations,
      longestFreezeMs: judge.longestFreezeMs,
      longestHoldMs: judge.longestHoldMs,
      endedAsStock: judge.endedAsStock,
      restores: judge.restores,
    };
  }

  /** One operation of a job, and the strikes that belong to it. */
  async #turn(job: Job, wish: Wish, strikes: readonly Strike[]): Promise<{ attempt: Attempt; struck: Hit[] }> {
    const attempt = await this.#begin(job, wish);
    const { target, running } = attempt;
    const end = async (): Promise<void> => {
      target.ended = await running.end;
    };
    const release = wish.kind === 'checkpoint' && wish.releases ? this.#releaseHold(target) : undefined;
    const [struck] = await Promise.all([
      Promise.all(strikes.map((one) => strike(this.#rig, target, one))),
      end(),
      release,
    ]);
    return { attempt, struck };
  }

  #judge(): Judge {
    return new Judge({ rig: this.#rig, jobs: this.#jobs, ticker: this.#ticker, copies: this.#copies });
  }

  close(): void {
    this.#ticker.close();
  }

  async #begin(job: Job, wish: Wish): Promise<Attempt & { readonly running: Running }> {
    const last = job.last;
    let begun = Date.now();
    let running: Running;
    if (wish.kind === 'replace') {
      await job.remove();
      // What the old process told until its end is not the restored one's.
      begun = Date.now();
      const newest = newestOf(job);
      running = startRestore(this.#rig, job, newest.checkpointId, newest.isRemote ? wish.source : 'auto');
    } else {
      running = startCheckpoint(this.#rig, job, wish);
    }
    const { workflowId, checkpointId } = running;
    this.#copies.use(checkpointId);
    const target: Target = { job, workflowId, checkpointId };
    const before = { low: last?.number ?? 0, token: last?.token ?? '', removed: wish.kind === 'replace' };
    return { job, wish, begun, target, running, ...before };
  }

  async #releaseHold(target: Target): Promise<void> {
    while (target.ended === undefined && !reached(this.#rig, target, 'held done')) {
      await sleep(50);
    }
    const handle = this.#rig.temporalClient.workflow.getHandle(target.workflowId);
    while (target.ended === undefined) {
      // Refused while the server is away, or since the run has just ended.
      await handle.signal('release').catch(() => undefined);
      await sleep(500);
    }
  }

  /** What is not as it was before the first round, when nothing more is cleaned up. */
  async #leftOvers(judge: Judge): Promise<readonly string[]> {
    const deadline = performance.now() + QUIET_MS;
    let left: string[] = [];
    do {
      if (this.#rig.hasOperations && performance.now() < deadline - LOOK_MS) {
        await sleep(LOOK_MS);
        continue;
      }
      try {
        // The step that commits may end after its workflow was terminated: such a checkpoint is whole, or it is half.
        await judge.lookAtCopies();
        left = difference(this.#baseline, await traces(this.#rig, this.#jobs, this.#copies.local));
      } catch (error) {
        left = [messageOf(error)];
      }
      if (left.length === 0) {
        break;
      }
      await sleep(LOOK_MS);
    } while (performance.now() < deadline);
    return left;
  }
}

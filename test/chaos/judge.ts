/*
 * What must hold of a job when its operation has ended: it runs on as it was, or it was ended by what ends it under any
 * runtime, or on purpose, and comes back whole from its newest committed checkpoint.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../core/errors.ts';
import type { Copies } from './copies.ts';
import type { Job } from './jobs.ts';
import { FREEZE_BUDGET_MS, HOLD_BUDGET_MS, type Outcome, sourceOf, startRestore } from './operate.ts';
import type { Wish } from './plan.ts';
import type { Rig } from './rig.ts';
import { firstMissing, type IdleTicker, longestPause } from './sequence.ts';
import type { Target } from './moments.ts';
import type { Hit } from './strike.ts';

const GRACE_MS = 1000;
const TICK_MS = 30_000;
/** Services are killed while others are brought back. */
const RESTORE_TRIES = 5;

export interface Violation {
  readonly kind: 'lost' | 'stuck' | 'half' | 'leaked' | 'freeze';
  readonly what: string;
}

export interface Attempt {
  readonly job: Job;
  readonly wish: Wish;
  readonly begun: number;
  readonly low: number;
  readonly token: string;
  target: Target;
  /** the owner ended the container */
  readonly removed: boolean;
}

export interface JudgeParts {
  readonly rig: Rig;
  readonly jobs: readonly Job[];
  readonly ticker: IdleTicker;
  readonly copies: Copies;
}

/** Of one round. */
export class Judge {
  readonly violations: Violation[] = [];
  restores = 0;
  endedAsStock = 0;
  longestFreezeMs = 0;
  longestHoldMs = 0;
  readonly #parts: JudgeParts;

  constructor(parts: JudgeParts) {
    this.#parts = parts;
  }

  violated(kind: Violation['kind'], what: string): void {
    this.violations.push({ kind, what });
  }

  async lookAtCopies(): Promise<void> {
    (await this.#parts.copies.look()).forEach((what) => this.violated('half', what));
  }

  /** Looks at all copies, and keeps the newest of each job. @returns is the attempt's own checkpoint there? */
  async noteCommitted({ job, wish, low, token, target, begun }: Attempt): Promise<boolean> {
    const { copies, jobs } = this.#parts;
    await this.lookAtCopies();
    const { checkpointId } = target;
    const isRemote = copies.remote.includes(checkpointId);
    const isCommitted = wish.kind === 'checkpoint' && (isRemote || copies.local.includes(checkpointId));
    if (isCommitted) {
      const high = low + Math.ceil((Date.now() - begun) / job.period) + 1;
      job.committed = [{ checkpointId, low, high, token, isRemote }];
    }
    await copies.keep(() => jobs.flatMap((one) => one.committed.map((each) => each.checkpointId)), checkpointId);
    return isCommitted;
  }

  async judge(attempt: Attempt, hits: readonly Hit[]): Promise<void> {
    const { job, wish, target, begun } = attempt;
    const committed = await this.noteCommitted(attempt);
    const outcome = target.ended;
    if (outcome === undefined || outcome.status === 'STUCK') {
      this.violated('stuck', `${job.id}: its ${wish.kind} has not ended`);
    }
    if (attempt.removed) {
      await job.adopt();
      if (outcome?.status === 'COMPLETED' && job.isAlive) {
        await this.#isRestored(job, begun);
        return;
      }
      if (outcome?.status === 'COMPLETED' && !hits.some(({ victim, kills }) => victim === 'shim' && kills > 0)) {
        this.violated('lost', `${job.id} ended after its restore (${outcomeText(job, outcome)})`);
      }
      await this.#bringBack(job);
      return;
    }
    if (hits.some(({ victim, kills }) => victim === 'shim' && kills > 0)) {
      await this.#untilDeleted(job);
    }
    const runsOn = job.isAlive && (await this.#ticks(job));
    if (runsOn) {
      await this.#isUnharmed(attempt, hits);
      return;
    }
    this.#excuse(attempt, hits, committed);
    await this.#bringBack(job);
  }

  /** containerd deletes a container without a shim a moment later; one that it has not noticed yet is judged as it is. */
  async #untilDeleted(job: Job): Promise<void> {
    for (const deadline = Date.now() + TICK_MS; job.isAlive && Date.now() < deadline;) {
      await sleep(50);
    }
  }

  /** Within the time that the longest freeze, and a connection that nobody answers, may take. */
  async #ticks(job: Job): Promise<boolean> {
    const from = Date.now();
    while ((job.last?.time ?? 0) < from) {
      if (!job.isAlive || Date.now() > from + TICK_MS) {
        return false;
      }
      await sleep(50);
    }
    return true;
  }

  /**
   * Why it may have ended: it was to be stopped and is saved, or the same blow ends it under the stock runtime. That of
   * the shim does, since containerd then deletes the container; so does that of a CRIU which is at work inside of the
   * processes: nobody else knows what it has put there.
   */
  #excuse({ job, wish, target }: Attempt, hits: readonly Hit[], committed: boolean): void {
    const mayStop = wish.kind === 'checkpoint' && wish.after === 'stop';
    if (mayStop && committed && !job.isAlive) {
      return;
    }
    if (hits.some(({ victim, kills }) => kills > 0 && (victim === 'shim' || victim === 'criu'))) {
      this.endedAsStock += 1;
      return;
    }
    const source = target.ended === undefined ? undefined : sourceOf(target.ended);
    const how = `${outcomeText(job, target.ended)}, source ${source ?? 'unknown'}`;
    this.violated(
      job.isAlive ? 'stuck' : 'lost',
      `${job.id} ${job.isAlive ? 'does not run on' : 'has ended'} (${how})`,
    );
  }

  /** Nothing is missing, and no pause was longer than its budget. */
  async #isUnharmed({ job, wish, begun, token }: Attempt, hits: readonly Hit[]): Promise<void> {
    const ticks = job.ticks();
    const isHeld = wish.kind === 'checkpoint' && wish.after !== 'resume';
    if (losesConnections(job, wish, hits)) {
      this.endedAsStock += 1;
      return;
    }
    const pause = longestPause(ticks, begun, job.last?.time ?? begun);
    const ms = Math.max(0, pause.ms - this.#parts.ticker.stall(pause.from, pause.to));
    this.longestFreezeMs = isHeld ? this.longestFreezeMs : Math.max(this.longestFreezeMs, ms);
    this.longestHoldMs = isHeld ? Math.max(this.longestHoldMs, ms) : this.longestHoldMs;
    const budgetMs = FREEZE_BUDGET_MS + (isHeld ? HOLD_BUDGET_MS : 0);
    if (ms > budgetMs + GRACE_MS) {
      this.violated('freeze', `${job.id} stood still for ${Math.round(ms)} ms, its budget is ${budgetMs} ms`);
    }
    const missing = firstMissing(ticks);
    const wrong = [
      ...(missing === undefined || job.kind.network !== undefined ? [] : [`number ${missing} follows on another one`]),
      ...(ticks.at(-1)?.token === token ? [] : ['it has another token']),
      ...(await this.#complaints(job, begun)),
      ...(await job.checksMove()),
    ];
    wrong.forEach((what) => this.violated('lost', `${job.id}: ${what} (${hits.map((hit) => hit.what).join(', ')})`));
  }

  /** VRAM is back when its runner, or the next look of the reconciliation, has undone what a terminated workflow left. */
  async #complaints(job: Job, begun: number): Promise<readonly string[]> {
    const deadline = Date.now() + 2 * TICK_MS;
    let found = job.complaints(begun);
    while (found.length > 0 && job.isAlive && Date.now() < deadline && this.#parts.rig.hasOperations) {
      await sleep(200);
      found = job.complaints(begun);
    }
    return found;
  }

  async #bringBack(job: Job): Promise<void> {
    const newest = newestOf(job);
    let why = '';
    for (let tries = 0; tries < RESTORE_TRIES; tries += 1) {
      try {
        await this.#parts.rig.ready();
        await job.remove();
        const begun = Date.now();
        const end = await startRestore(this.#parts.rig, job, newest.checkpointId, 'auto').end;
        why = outcomeText(job, end);
        await job.adopt();
        if (end.status === 'COMPLETED' && job.isAlive) {
          await this.#isRestored(job, begun);
          return;
        }
      } catch (error) {
        why = messageOf(error);
      }
    }
    this.violated('lost', `${job.id} cannot be restored from ${newest.checkpointId}: ${why}`);
  }

  /** Its sequence goes on where the checkpoint was, with the token that its memory held. */
  async #isRestored(job: Job, begun: number): Promise<void> {
    this.restores += 1;
    const { low, high, token, checkpointId } = newestOf(job);
    const deadline = Date.now() + TICK_MS;
    while ((job.last?.time ?? 0) <= begun && Date.now() < deadline && job.isAlive) {
      await sleep(50);
    }
    const first = job.ticks().find(({ time }) => time > begun);
    if (first === undefined) {
      this.violated('stuck', `${job.id} was restored from ${checkpointId} and does not run`);
      return;
    }
    const since = first.time;
    const wrong = [
      ...(first.number - 1 >= low && first.number - 1 <= high
        ? []
        : [`goes on at ${first.number}, not between ${low} and ${high}`]),
      ...(first.token === token ? [] : ['has another token']),
      ...job.complaints(since),
      ...(await job.checksMove()),
    ];
    wrong.forEach((what) => this.violated('lost', `${job.id} restored from ${checkpointId}: ${what}`));
  }
}

/**
 * CRIU is killed, and nobody keeps the connections: its keeper is killed, too, or there is none, as under the engine
 * `containerd`, whose CRIU is not ours. Under the stock runtime they are lost as well.
 */
function losesConnections(job: Job, wish: Wish, hits: readonly Hit[]): boolean {
  const wasKilled = (name: string): boolean => hits.some(({ victim, kills }) => victim === name && kills > 0);
  const isAlone = wish.kind === 'checkpoint' && wish.engine === 'containerd';
  return job.kind.network !== undefined && wasKilled('criu') && (isAlone || wasKilled('criu-keeper'));
}

export function newestOf(job: Job): Job['committed'][number] {
  const newest = job.committed.at(-1);
  if (newest === undefined) {
    throw new Error(`${job.id} has no committed checkpoint`);
  }
  return newest;
}

export function outcomeText(job: Job, outcome: Outcome | undefined): string {
  const { status = 'STUCK', error = '', begun = 0, ended = 0 } = outcome ?? {};
  return `${job.id} ${status} after ${ended - begun} ms${error === '' ? '' : `: ${error.slice(0, 300)}`}`;
}

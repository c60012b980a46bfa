/*
 * The freeze guard: a process that does nothing but wait beside a runner, in a cgroup of its own. When the runner is gone
 * and its workload may stand still, or stands still past its budget, the guard ends what is left of the operation and
 * makes the same undo as everybody (undo-dead.ts). It needs no worker, no Temporal and no containerd.
 *
 *   the runner holds the flock → armed (guard.json) → the runner has ended well → ends
 *                                                   → acts → report → ends
 */
import { existsSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GuardCause } from '../core/contract/checkpoint.ts';
import { KybernateError, isKybernateError, messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import { readProcess } from '../native/proc/tree.ts';
import { undoDead } from './undo-dead.ts';
import { guardDue } from './freeze-budget.ts';
import type { GuardReport } from './guard-report.ts';
import { checkHealth } from './health.ts';
import { mustBeUndone, readJournal, standsOnPurpose, type JournalEntry } from './journal.ts';
import { lockBase, operationPaths, readJson, writeJson, type OperationPaths, type OperationPlan } from './operation.ts';
import { runnerPid } from './runner-process.ts';
import { entriesOf, type UndoDeps } from './undo.ts';

/** Between two looks at the runner. */
const LOOK_MS = 40;
/** The runner may still be loading. */
const RUNNER_START_MS = 15_000;
/** Between two tries to bring a workload back. */
const RETRY_MS = 5000;

export interface GuardDeps extends UndoDeps {
  readonly log: Logger;
}

/** Which guard of a container was armed last: `<lock>.guard`. */
interface Armed {
  readonly operationId: string;
  readonly token: number;
}

/**
 * Waits until the runner holds the container's flock, and arms.
 * @returns false when the runner was refused or never came: there is nothing to guard
 */
export async function armGuard(plan: OperationPlan): Promise<boolean> {
  const paths = operationPaths(plan.settings, plan.operationId);
  const deadline = performance.now() + RUNNER_START_MS;
  while (runnerPid(paths) === undefined) {
    const refused = (readJson(paths.runner) as { error?: unknown } | undefined)?.error !== undefined;
    if (refused || performance.now() > deadline) {
      return false;
    }
    await sleep(2);
  }
  const armed: Armed = { operationId: plan.operationId, token: plan.token };
  const newest = armedGuard(plan);
  if (newest !== undefined && newest.token > plan.token) {
    return false;
  }
  writeJson(guardFile(plan), armed);
  writeJson(paths.guard, { pid: process.pid, startTime: readProcess(process.pid)?.startTime });
  return true;
}

function guardFile(plan: OperationPlan): string {
  return `${lockBase(plan.settings, plan.container)}.guard`;
}

function armedGuard(plan: OperationPlan): Armed | undefined {
  return readJson(guardFile(plan)) as Armed | undefined;
}

/** Has no guard of a newer operation on the container been armed? */
function isNewest(plan: OperationPlan): boolean {
  const armed = armedGuard(plan);
  return armed === undefined || armed.operationId === plan.operationId || armed.token < plan.token;
}

/**
 * Watches until the runner has ended well, or acts.
 * @returns what it did; undefined when nothing was to be done
 */
export async function watchRunner(plan: OperationPlan, deps: GuardDeps): Promise<GuardReport | undefined> {
  const paths = operationPaths(plan.settings, plan.operationId);
  const journal = new JournalReader(plan, deps.log);
  for (;;) {
    const runner = runnerPid(paths);
    const decision = decide({ plan, runs: runner !== undefined, entries: journal.read(), nowMs: Date.now() });
    if (decision === 'end' || (runner === undefined && !existsSync(paths.plan))) {
      return undefined;
    }
    if (decision !== 'wait') {
      return act(plan, deps, decision);
    }
    await sleep(LOOK_MS);
  }
}

export interface Look {
  readonly plan: OperationPlan;
  /** does the runner live? */
  readonly runs: boolean;
  /** undefined when the journal cannot be read */
  readonly entries: readonly JournalEntry[] | undefined;
  readonly nowMs: number;
}

/** What a look at runner and journal asks for. */
export function decide({ plan, runs, entries, nowMs }: Look): 'wait' | 'end' | GuardCause {
  if (!runs) {
    if (entries === undefined) {
      return 'runner-gone';
    }
    return mustBeUndone(entries) ? 'runner-gone' : 'end';
  }
  const due = entries === undefined ? undefined : guardDue(entries, plan);
  return due !== undefined && nowMs > due.atMs ? due.cause : 'wait';
}

/** Parses the journal when it has grown. */
class JournalReader {
  readonly #plan: OperationPlan;
  readonly #log: Logger;
  #size = -1;
  #failed = false;
  #entries: readonly JournalEntry[] | undefined = [];

  constructor(plan: OperationPlan, log: Logger) {
    this.#plan = plan;
    this.#log = log;
  }

  read(): readonly JournalEntry[] | undefined {
    const { journal } = operationPaths(this.#plan.settings, this.#plan.operationId);
    const size = statSync(journal, { throwIfNoEntry: false })?.size ?? 0;
    if (size !== this.#size) {
      try {
        this.#entries = readJournal(journal);
        this.#size = size;
        this.#failed = false;
      } catch (error) {
        // No descriptor or memory left: read again at the next look, and told once.
        if (!this.#failed) {
          this.#log.error({ error: messageOf(error) }, 'the journal cannot be read');
        }
        this.#failed = true;
        this.#entries = undefined;
      }
    }
    return this.#entries;
  }
}

/** Tries until the workload runs, is gone, or another one owns it: nobody else may be there to do it. */
async function act(plan: OperationPlan, deps: GuardDeps, cause: GuardCause): Promise<GuardReport | undefined> {
  const { log } = deps;
  const at = new Date();
  const paths = operationPaths(plan.settings, plan.operationId);
  for (;;) {
    if (!isNewest(plan)) {
      log.warn({ operationId: plan.operationId, cause }, 'a newer guard is armed for this container: this one ends');
      return undefined;
    }
    log.warn({ operationId: plan.operationId, cause }, 'the guard brings the workload back');
    const { report, final } = await tryOnce(plan, deps, cause, at);
    writeReport(paths, report, log);
    if (final || !existsSync(paths.plan)) {
      return withHealth(plan, deps, report);
    }
    await sleep(RETRY_MS);
  }
}

async function tryOnce(
  plan: OperationPlan,
  deps: GuardDeps,
  cause: GuardCause,
  at: Date,
): Promise<{ report: GuardReport; final: boolean }> {
  const facts = (): Pick<GuardReport, 'at' | 'cause' | 'tookMs'> => ({
    at: at.toISOString(),
    cause,
    tookMs: Date.now() - at.getTime(),
  });
  try {
    const result = await undoDead({ plan, deps, log: deps.log, by: 'guard' });
    return { report: { ...facts(), result }, final: true };
  } catch (error) {
    deps.log.error({ operationId: plan.operationId, error: messageOf(error) }, 'the guard could not bring it back');
    const known = error instanceof KybernateError ? error : undefined;
    const told = { type: known?.type ?? 'Internal', message: messageOf(error), details: known?.details ?? {} };
    return { report: { ...facts(), error: told }, final: isFinal(error, entriesOf(plan, deps.log)) };
  }
}

/** Asked when the report lies there already: a workload may take long to answer, or for ever. */
async function withHealth(plan: OperationPlan, { run, log }: GuardDeps, report: GuardReport): Promise<GuardReport> {
  const health = report.result?.source === 'running' ? await checkHealth(run, plan) : undefined;
  if (report.result === undefined || health === undefined) {
    return report;
  }
  const asked = { ...report, result: { ...report.result, health } };
  writeReport(operationPaths(plan.settings, plan.operationId), asked, log);
  return asked;
}

/**
 * Another owner has it, or trying again is useless while the container lives: reported, for a person to look at. A lock that
 * is merely held still, by a CRIU that the kernel does not end, comes free.
 */
export function isFinal(error: unknown, entries: readonly JournalEntry[] | undefined): boolean {
  return isKybernateError(error, 'LockLost')
    ? entries !== undefined && standsOnPurpose(entries)
    : isKybernateError(error) && error.details['final'] === true;
}

function writeReport(paths: OperationPaths, report: GuardReport, log: Logger): void {
  try {
    writeJson(paths.guardReport, report);
  } catch (error) {
    // No room, or the directory is gone with its operation: the workload counts, and the journal tells of it.
    log.error({ error: messageOf(error) }, 'the guard cannot write its report');
  }
}

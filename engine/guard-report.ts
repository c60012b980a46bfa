/* What a freeze guard tells those who drive its operation: a file in the operation's directory, written when it acted. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { GuardCause, ResumeResult } from '../core/contract/checkpoint.ts';
import { isErrorType, KybernateError, type ErrorDetails } from '../core/errors.ts';
import { operationPaths, readJson, type OperationPaths, type OperationPlan } from './operation.ts';
import { guardPid } from './runner-process.ts';

export interface GuardReport {
  /** ISO time at which it began to act */
  readonly at: string;
  readonly cause: GuardCause;
  /** until the workload verifiably ran */
  readonly tookMs: number;
  /** what was read back; absent when it failed */
  readonly result?: ResumeResult;
  /** of its last try */
  readonly error?: { readonly type: string; readonly message: string; readonly details: ErrorDetails };
}

/** Longest wait for a guard that lives and says nothing, beside what the GPU may take. */
const SILENCE_MS = 60_000;
const POLL_MS = 10;

export function readGuardReport(paths: OperationPaths): GuardReport | undefined {
  return readJson(paths.guardReport) as GuardReport | undefined;
}

/** Waits for what the guard does about a runner that is gone. @returns undefined when it had nothing to do, or is gone */
export async function untilGuarded(plan: OperationPlan): Promise<GuardReport | undefined> {
  const paths = operationPaths(plan.settings, plan.operationId);
  const deadline = performance.now() + SILENCE_MS + plan.gpu.estimatedRestoreMs;
  for (;;) {
    // Asked before the report is read: what a guard writes before it ends is seen.
    const over = guardPid(paths) === undefined || performance.now() > deadline;
    const report = readGuardReport(paths);
    if (report !== undefined || over) {
      return report;
    }
    await sleep(POLL_MS);
  }
}

/** What the operation fails with. */
export function guardError(plan: OperationPlan, report: GuardReport): KybernateError {
  const container = `container ${plan.container.namespace}/${plan.container.id}`;
  const details = { broughtBackBy: 'guard', cause: report.cause, tookMs: report.tookMs };
  if (report.error !== undefined) {
    const { type, message, details: seen } = report.error;
    return new KybernateError(
      isErrorType(type) ? type : 'Internal',
      `the freeze guard (${why(plan, report.cause)}): ${message}`,
      { details: { ...details, ...seen } },
    );
  }
  const source = report.result?.source ?? 'running';
  const now = source === 'running' ? 'the freeze guard brought it back, and it runs' : `it is ${source}`;
  return new KybernateError(
    report.cause === 'runner-gone' ? 'DumpFailed' : 'FreezeBudgetExceeded',
    `the capture of ${container} did not end: ${why(plan, report.cause)}; ${now}`,
    { details: { ...details, freezeBudgetMs: plan.freezeBudgetMs, rollback: report.result } },
  );
}

function why({ freezeBudgetMs, holdBudgetMs }: OperationPlan, cause: GuardReport['cause']): string {
  const texts = {
    'runner-gone': 'its runner died',
    'freeze-budget': `its runner hung past the freeze budget of ${freezeBudgetMs} ms and was ended`,
    'hold-budget': `its runner hung past the hold budget of ${holdBudgetMs} ms and was ended`,
  };
  return texts[cause];
}

/*
 * Undoes what a dead runner left, from its journal. Whoever finds it may do it, any number of times: the flock decides.
 */
import { closeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ResumeResult } from '../core/contract/checkpoint.ts';
import { isKybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { takeContainerLock } from './container-flock.ts';
import { endDump } from './end-dump.ts';
import { LOCK_GRACE_MS } from './gpu/driver-call.ts';
import { gpuRuns, hasGpu, resumeGpuSection } from './gpu-section.ts';
import { mayBeFrozen, readJournal, tryAppendJournal, type JournalEntry } from './journal.ts';
import type { NodeDeps } from './node-deps.ts';
import { killOperation } from './operation-cgroup.ts';
import { newestToken, operationPaths, type OperationPlan } from './operation.ts';
import { undoCapture } from './undo.ts';
import { verifyRunning } from './verify-running.ts';

const LATE_LOCK_POLL_MS = 250;

/** Undos under way in this process, by operation id. */
const undoing = new Map<string, Promise<ResumeResult>>();

/** Undoes what a dead runner left. An activity and the reconciler that come together share one undo. */
export function undoWithoutRunner(deps: NodeDeps, op: Op, plan: OperationPlan): Promise<ResumeResult> {
  const { operationId } = plan;
  const running = undoing.get(operationId) ?? undoOnce(deps, op, plan).finally(() => undoing.delete(operationId));
  undoing.set(operationId, running);
  return running;
}

/** Takes the flock: an undo by another process is waited for by nobody, and this one is refused. */
async function undoOnce(deps: NodeDeps, op: Op, plan: OperationPlan): Promise<ResumeResult> {
  const paths = operationPaths(deps.settings, plan.operationId);
  const before = readJournal(paths.journal);
  if (!mayBeFrozen(before)) {
    return verifyRunning(plan, deps, op.log);
  }
  // What survives of the operation holds the flock by inheritance, and may still write to the workload.
  await endDump(plan, deps.run);
  await killOperation(plan.operationId);
  const lock = takeContainerLock(plan);
  try {
    const running = await runsAlready(deps, op, plan);
    const result = running ?? (await undoCapture(plan, deps, op.log));
    await undoLateLock(deps, op, plan, before);
    return result;
  } finally {
    closeSync(lock);
  }
}

/**
 * The driver may still carry out a lock whose caller died while it waited for running kernels. Until that call's own time
 * is over the processes are looked at, and let go again. The journal says so meanwhile, for whoever comes after us.
 * @throws Poisoned
 */
async function undoLateLock(
  deps: NodeDeps,
  op: Op,
  plan: OperationPlan,
  before: readonly JournalEntry[],
): Promise<void> {
  const asked = before.findLast(({ step }) => step === 'gpu-locking');
  const untilMs = Date.parse(asked?.at ?? '') + plan.gpu.lockTimeoutMs + LOCK_GRACE_MS;
  if (!hasGpu(plan) || asked?.state !== 'begin' || Date.now() >= untilMs) {
    return;
  }
  const { journal } = operationPaths(plan.settings, plan.operationId);
  const section = { plan, run: deps.run, gpu: deps.gpu, log: op.log };
  tryAppendJournal(journal, { step: 'gpu-locking', state: 'begin', data: { late: true } }, op.log);
  while (Date.now() < untilMs && (await gpuRuns(section))) {
    await sleep(LATE_LOCK_POLL_MS);
  }
  await resumeGpuSection(section);
}

/** A newer operation has had the container since: where it runs, an old one has nothing to undo and changes nothing. */
async function runsAlready(deps: NodeDeps, op: Op, plan: OperationPlan): Promise<ResumeResult | undefined> {
  if (newestToken(plan.settings, plan.container) <= plan.token) {
    return undefined;
  }
  try {
    const result = await verifyRunning(plan, deps, op.log, 0);
    const { journal } = operationPaths(plan.settings, plan.operationId);
    tryAppendJournal(journal, { step: 'undone', state: 'done', data: { ...result, killed: [] } }, op.log);
    return result;
  } catch (error) {
    if (isKybernateError(error, 'Poisoned')) {
      return undefined;
    }
    throw error;
  }
}

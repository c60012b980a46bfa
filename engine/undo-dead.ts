/*
 * What is done for an operation whose runner is gone or hangs: by its guard, by an activity, by the reconciler of a worker
 * that has just started. They may come at once, from several processes: the container's flock lets one of them at it,
 * and whoever comes second finds it done. All make the same undo (undo.ts).
 */
import { closeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import type { ResumeResult } from '../core/contract/checkpoint.ts';
import type { Logger, Op } from '../core/op.ts';
import { readProcess } from '../native/proc/tree.ts';
import { takeContainerLock } from './container-flock.ts';
import { endDump } from './end-dump.ts';
import { LOCK_GRACE_MS } from './gpu/driver-call.ts';
import { gpuRuns, hasGpu, putBackLimits, resumeGpuSection } from './gpu-section.ts';
import {
  handedOver,
  mayBeFrozen,
  mustEnd,
  standsOnPurpose,
  tryAppendJournal,
  undoBegan,
  type JournalEntry,
} from './journal.ts';
import { killFrozen } from './kill.ts';
import { operationPids } from './operation-cgroup.ts';
import { newestToken, operationPaths, type OperationPlan } from './operation.ts';
import { runnerPid } from './runner-process.ts';
import { entriesOf, undoCapture, type UndoDeps, type Undoer } from './undo.ts';
import { removeNetworkLocks, verifyRunning } from './verify-running.ts';

/** For the undo of another process, beside what the GPU may take. */
const OTHER_UNDO_MS = 60_000;
const RETRY_MS = 20;
const LATE_LOCK_POLL_MS = 250;

/** Undos under way in this process, by operation id. */
const undoing = new Map<string, Promise<ResumeResult>>();

/** Undoes what a dead runner left. An activity and the reconciler that come together share one undo. */
export function undoWithoutRunner(deps: UndoDeps, op: Op, plan: OperationPlan): Promise<ResumeResult> {
  const { operationId } = plan;
  const work = { plan, deps, log: op.log, by: 'worker' as const };
  const running = undoing.get(operationId) ?? undoDead(work).finally(() => undoing.delete(operationId));
  undoing.set(operationId, running);
  return running;
}

export interface DeadOperation {
  readonly plan: OperationPlan;
  readonly deps: UndoDeps;
  readonly log: Logger;
  readonly by: Undoer;
}

/**
 * Ends the operation's processes and brings the workload back, or finishes its end where that had begun. Idempotent.
 *
 * @returns what was read back of the workload; where nothing stood still it was only looked at
 * @throws Poisoned; LockLost the source was given up for a second owner, or another operation holds the container: it was
 *   not touched
 */
export async function undoDead(work: DeadOperation): Promise<ResumeResult> {
  const { plan, deps, log } = work;
  if (!standsStill(work)) {
    return verifyRunning(plan, deps, log);
  }
  endRunner(plan);
  // Asked again, as after every point at which another process may have written: only the holder of the flock knows.
  refuseHandedOver(work);
  // What survives of the operation holds the flock by inheritance, and may still write to the workload.
  await endDump(plan, deps.run, () => nobodyUndoes(work));
  const lock = await takeLock(work);
  if (lock === undefined) {
    return verifyRunning(plan, deps, log);
  }
  try {
    refuseHandedOver(work);
    const entries = entriesOf(plan, log);
    if (entries !== undefined && mustEnd(entries)) {
      return await endSource(work);
    }
    if (!standsStill(work)) {
      return await verifyRunning(plan, deps, log);
    }
    const result = (await runsAlready(work)) ?? (await undoCapture(plan, deps, log, work.by));
    await undoLateLock(work, entries ?? []);
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
async function undoLateLock({ plan, deps, log }: DeadOperation, before: readonly JournalEntry[]): Promise<void> {
  const asked = before.findLast(({ step }) => step === 'gpu-locking' || step === 'gpu-saved');
  const untilMs = Date.parse(asked?.at ?? '') + plan.gpu.lockTimeoutMs + LOCK_GRACE_MS;
  if (!hasGpu(plan) || asked?.state !== 'begin' || Date.now() >= untilMs) {
    return;
  }
  const { journal } = operationPaths(plan.settings, plan.operationId);
  const section = { plan, run: deps.run, gpu: deps.gpu, log };
  tryAppendJournal(journal, { step: 'gpu-locking', state: 'begin', data: { late: true } }, log);
  while (Date.now() < untilMs && (await gpuRuns(section))) {
    await sleep(LATE_LOCK_POLL_MS);
  }
  await resumeGpuSection(section);
}

/**
 * A newer operation has had the container since: where it runs, an old one has nothing to undo and changes nothing. Where
 * it has ended, its cgroup may be that of a restored one, whose sockets CRIU may just be making: only what the dump left in
 * a network that others share is removed.
 */
async function runsAlready({ plan, deps, log, by }: DeadOperation): Promise<ResumeResult | undefined> {
  if (newestToken(plan.settings, plan.container) <= plan.token) {
    return undefined;
  }
  try {
    const result = { ...(await verifyRunning(plan, deps, log, 0)), by };
    if (result.source === 'gone') {
      if (hasSurvivors(plan)) {
        return undefined;
      }
      await removeNetworkLocks(plan, deps.run);
    }
    const { journal } = operationPaths(plan.settings, plan.operationId);
    tryAppendJournal(journal, { step: 'undone', state: 'done', data: { ...result, killed: [] } }, log);
    return result;
  } catch (error) {
    if (isKybernateError(error, 'Poisoned')) {
      return undefined;
    }
    throw error;
  }
}

/** Does a process of the plan live, although the first one has ended? Not where they have a pid namespace of their own. */
function hasSurvivors({ facts }: OperationPlan): boolean {
  return facts.processes.some(({ hostPid, startTime }) => {
    const now = readProcess(hostPid);
    return now?.startTime === startTime && now.state !== 'Z';
  });
}

/**
 * Ends a source that was given up and whose runner is gone. Whoever calls has its own reason to know that it must end.
 * @throws LockLost it was not given up; Poisoned
 */
export async function endDead(work: DeadOperation): Promise<ResumeResult> {
  const { plan } = work;
  endRunner(plan);
  const entries = entriesOf(plan, work.log);
  if (entries === undefined || !handedOver(entries)) {
    throw new KybernateError(
      'LockLost',
      `container ${nameOf(plan)} was not given up before its runner ended: it runs on, or will; it was not ended`,
    );
  }
  await endDump(plan, work.deps.run);
  const lock = await takeLock(work);
  try {
    return await endSource(work);
  } finally {
    if (lock !== undefined) {
      closeSync(lock);
    }
  }
}

async function endSource({ plan, log }: DeadOperation): Promise<ResumeResult> {
  const { journal } = operationPaths(plan.settings, plan.operationId);
  tryAppendJournal(journal, { step: 'killed', state: 'begin' }, log);
  await killFrozen(plan);
  const left = hasGpu(plan) ? await putBackLimits(plan) : [];
  left.forEach((warning) => log.warn({ operationId: plan.operationId }, warning));
  tryAppendJournal(journal, { step: 'killed', state: 'done' }, log);
  return { source: 'stopped', checks: { initGone: true } };
}

/** A runner that hangs must not wake up in the middle of the undo. */
function endRunner(plan: OperationPlan): void {
  const pid = runnerPid(operationPaths(plan.settings, plan.operationId));
  // Its cgroup says whether it belongs to this operation; CRIU, which is there too, needs a better end.
  if (pid === undefined || !operationPids(plan.operationId).includes(pid)) {
    return;
  }
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // ESRCH: it has just ended by itself.
  }
}

/** Without a journal that can be read everything may have happened. */
function standsStill({ plan, log }: DeadOperation): boolean {
  const entries = entriesOf(plan, log);
  return entries === undefined || mayBeFrozen(entries);
}

/** Otherwise the freezer is another one's, who would take it for opened when he has opened it. */
function nobodyUndoes({ plan, log }: DeadOperation): boolean {
  const entries = entriesOf(plan, log);
  return entries === undefined || (mayBeFrozen(entries) && !undoBegan(entries));
}

/** @throws LockLost */
function refuseHandedOver({ plan, log }: DeadOperation): void {
  const entries = entriesOf(plan, log);
  if (entries !== undefined && standsOnPurpose(entries)) {
    throw handedOverError(plan);
  }
}

export function handedOverError(plan: OperationPlan): KybernateError {
  return new KybernateError(
    'LockLost',
    `container ${nameOf(plan)} on ${plan.settings.node} was handed over: a second owner may run, so nobody lets the ` +
      'source go any more; it stands still until its operation ends it',
    { details: { operationId: plan.operationId } },
  );
}

/** @returns undefined when another one has brought the workload back meanwhile */
async function takeLock(work: DeadOperation): Promise<number | undefined> {
  const { plan } = work;
  const deadline = performance.now() + OTHER_UNDO_MS + plan.gpu.estimatedRestoreMs;
  for (;;) {
    try {
      return takeContainerLock(plan);
    } catch (error) {
      if (!isKybernateError(error, 'LockLost') || performance.now() > deadline) {
        throw error;
      }
    }
    if (!standsStill(work)) {
      return undefined;
    }
    await sleep(RETRY_MS);
  }
}

function nameOf({ container }: OperationPlan): string {
  return `${container.namespace}/${container.id}`;
}

/*
 * How activities reach an operation's runner, and what they do when there is none. Every function here may be called
 * any number of times, by any worker process, before and after the runner's death.
 */
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CaptureResult, ResumeResult, SaveGpuStateResult } from '../core/contract/checkpoint.ts';
import { isErrorType, KybernateError, messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { removeUncommitted } from './commit.ts';
import { checkHealth } from './health.ts';
import { readGuardReport } from './guard-report.ts';
import { forgetGuard, startGuard } from './guard-start.ts';
import { handedOver, lastDone, mayBeFrozen, readJournal, tryAppendJournal } from './journal.ts';
import type { NodeDeps } from './node-deps.ts';
import { killOperation, operationPids, removeOperationCgroup } from './operation-cgroup.ts';
import {
  checkToken,
  newestToken,
  operationPaths,
  readJson,
  readPlan,
  removeOperation,
  retireToken,
  type OperationPaths,
  type OperationPlan,
} from './operation.ts';
import { ask, type OperationRef, planOf, RunnerGone } from './runner-client.ts';
import { launch, runnerPid } from './runner-process.ts';
import { removeDiffView } from './rootfs-diff-service.ts';
import { entriesOf } from './undo.ts';
import { endDead, undoWithoutRunner } from './undo-dead.ts';

const RUNNER_START_MS = 15_000;
/**
 * Starts the operation's runner and its guard, and returns when the runner holds the container's flock; joins a live one.
 * @throws LockLost when another operation holds the container
 */
export async function startRunner(deps: NodeDeps, op: Op, ref: OperationRef): Promise<{ runnerPid: number }> {
  const paths = operationPaths(deps.settings, ref.operationId);
  planOf(deps, ref);
  checkToken(deps.settings, ref.container, ref.token);
  const live = runnerPid(paths);
  if (live !== undefined) {
    return { runnerPid: live };
  }
  // One that an earlier worker process has started may not have come as far as its file.
  const hasBegun = readJournal(paths.journal).some(({ step }) => step !== 'armed');
  const isStarting = (): boolean => !hasBegun && operationPids(ref.operationId).length > 0;
  if (!isStarting() && existsSync(paths.journal)) {
    throw new KybernateError('DumpFailed', `the runner of operation ${ref.operationId} died; its capture is undone`);
  }
  const runner: StartingRunner = isStarting()
    ? { ended: () => !isStarting() }
    : (launch(deps.settings, 'runner', paths) ?? { ended: () => true });
  const started = await waitForRunner(paths, op, runner);
  // It is armed while the workflow comes to its next step, which waits for that.
  startGuard(deps.settings, paths, ref.operationId);
  return started;
}

interface StartingRunner {
  readonly ended: () => boolean;
  /** of a runner that this process started: errors of others are not its own */
  readonly pid?: number | undefined;
}

interface RunnerRefusal {
  readonly error?: { readonly type: string; readonly message: string; readonly pid: number };
}

async function waitForRunner(
  paths: OperationPaths,
  op: Op,
  { ended, pid: own }: StartingRunner,
): Promise<{ runnerPid: number }> {
  const deadline = performance.now() + RUNNER_START_MS;
  for (let gone = false; !gone && performance.now() < deadline;) {
    op.signal.throwIfAborted();
    // Asked before the file is read: what a runner writes before it ends is seen.
    gone = ended();
    const state = readJson(paths.runner) as RunnerRefusal | undefined;
    if (state?.error !== undefined && (own === undefined || state.error.pid === own)) {
      throw new KybernateError(isErrorType(state.error.type) ? state.error.type : 'Internal', state.error.message);
    }
    const pid = runnerPid(paths);
    if (pid !== undefined) {
      return { runnerPid: pid };
    }
    await sleep(4);
  }
  const tail = existsSync(paths.log) ? readFileSync(paths.log, 'utf8').slice(-2000) : '';
  throw new KybernateError(
    'Internal',
    `the runner did not start (see ${paths.log} and runners.log beside the operations); nothing was touched. ${tail}`,
  );
}

/** Locks and saves the GPU processes; with none in the container it says so. Cancellation is as for the capture. */
export async function saveGpuState(deps: NodeDeps, op: Op, ref: OperationRef): Promise<SaveGpuStateResult> {
  return (await ask(deps, op, ref, 'save-gpu-state')) as SaveGpuStateResult;
}

/** Captures through the runner; cancellation makes the runner undo, and is reported when it has. */
export async function captureContainer(deps: NodeDeps, op: Op, ref: OperationRef): Promise<CaptureResult> {
  return (await ask(deps, op, ref, 'capture')) as CaptureResult;
}

/**
 * Makes the source run again and verifies it, with or without a runner; then the workload is asked whether it is well. The
 * compensation of everything before it.
 * @throws Poisoned; LockLost it was handed over
 */
export async function resumeContainer(deps: NodeDeps, op: Op, ref: OperationRef): Promise<ResumeResult> {
  const plan = readPlan(deps.settings, ref.operationId);
  if (plan === undefined) {
    // Nothing was planned, hence nothing touched; or all is over and cleaned.
    return { source: 'running', checks: { untouched: true } };
  }
  const resumed = await letGo(deps, op, ref, plan);
  const paths = operationPaths(deps.settings, ref.operationId);
  const report = readGuardReport(paths);
  const health = resumed.source === 'running' ? await checkHealth(deps.run, plan) : undefined;
  const result: ResumeResult = {
    ...resumed,
    ...broughtBack(plan, op),
    ...(report === undefined ? {} : { by: 'guard' as const, guard: report.cause }),
    ...(health === undefined ? {} : { health }),
  };
  tryAppendJournal(paths.journal, { step: 'verified', state: 'done', data: { ...result } }, op.log);
  return result;
}

/** By another process than the runner, perhaps long before anybody asked. */
function broughtBack(plan: OperationPlan, op: Op): Pick<ResumeResult, 'by'> {
  const by = lastDone(entriesOf(plan, op.log) ?? [], 'undone')?.data?.['by'];
  return by === 'guard' || by === 'worker' ? { by } : {};
}

async function letGo(deps: NodeDeps, op: Op, ref: OperationRef, plan: OperationPlan): Promise<ResumeResult> {
  const paths = operationPaths(deps.settings, ref.operationId);
  if (runnerPid(paths) !== undefined) {
    try {
      return (await ask(deps, op, ref, 'resume')) as ResumeResult;
    } catch (error) {
      if (!(error instanceof RunnerGone)) {
        throw error;
      }
    }
  }
  return undoWithoutRunner(deps, op, plan);
}

/**
 * Gives the held source up, before a second owner may run: from now on nobody lets it go, whatever dies or runs out of
 * time, until `stopContainer` ends it. Idempotent.
 * @throws LockLost it runs on already, or a newer operation owns it: then the second owner must not run
 */
export async function handOverContainer(deps: NodeDeps, op: Op, ref: OperationRef): Promise<void> {
  await ask(deps, op, ref, 'hand-over');
}

/**
 * Ends the held source for good. Needs the live runner, who alone knows that nobody resumed it meanwhile, unless it was
 * handed over: then nobody has.
 */
export async function stopContainer(deps: NodeDeps, op: Op, ref: OperationRef): Promise<ResumeResult> {
  try {
    return (await ask(deps, op, ref, 'stop')) as ResumeResult;
  } catch (error) {
    const plan = readPlan(deps.settings, ref.operationId);
    const { journal } = operationPaths(deps.settings, ref.operationId);
    if (!(error instanceof RunnerGone) || plan === undefined || !handedOver(readJournal(journal))) {
      throw error;
    }
    return endDead({ plan, deps, log: op.log, by: 'worker' });
  }
}

/** The frozen section is over: the runner exits and the container's flock is free. Absent runner is success. */
export async function endOperation(deps: NodeDeps, op: Op, ref: OperationRef): Promise<void> {
  const paths = operationPaths(deps.settings, ref.operationId);
  forgetGuard(ref.operationId);
  if (runnerPid(paths) !== undefined) {
    await ask(deps, op, ref, 'end').catch((error: unknown) => {
      if (!(error instanceof RunnerGone)) {
        throw error;
      }
    });
    await untilGone(paths);
  }
  const plan = readPlan(deps.settings, ref.operationId);
  if (plan !== undefined && mayBeFrozen(readJournal(paths.journal))) {
    // The runner died since somebody last looked. Its journal must not go before the workload runs.
    await undoWithoutRunner(deps, op, plan);
  }
  if (plan !== undefined) {
    await dropDiff(deps, op, plan);
  }
  await killOperation(ref.operationId);
  removeOperationCgroup(ref.operationId);
}

async function untilGone(paths: OperationPaths): Promise<void> {
  for (let attempt = 0; attempt < 400 && runnerPid(paths) !== undefined; attempt += 1) {
    await sleep(5);
  }
}

/**
 * containerd's view for the diff of a runner that died would stay for a day. What cannot be removed goes then; it is the
 * container's, so one that a newer operation may be using stays, too.
 */
async function dropDiff(deps: NodeDeps, op: Op, plan: OperationPlan): Promise<void> {
  const isNewest = newestToken(plan.settings, plan.container) <= plan.token;
  if (isNewest && runnerPid(operationPaths(plan.settings, plan.operationId)) === undefined) {
    await removeDiffView(deps.containerd, plan.facts).catch((error: unknown) => {
      op.log.warn(
        { operationId: plan.operationId, error: messageOf(error) },
        'the view of a diff could not be removed',
      );
    });
  }
}

/**
 * Removes the uncommitted capture and the operation's directory. A committed checkpoint stays. Idempotent. The token goes
 * first, so that no step which is late begins once more.
 */
export async function discardCapture(deps: NodeDeps, op: Op, ref: OperationRef): Promise<{ removed: boolean }> {
  const plan = readPlan(deps.settings, ref.operationId);
  if (plan !== undefined) {
    retireToken(deps.settings, plan.container, plan.token);
  }
  await endOperation(deps, op, ref);
  const removed = plan === undefined ? false : await removeUncommitted(plan.checkpointDir);
  removeOperation(deps.settings, ref.operationId);
  return { removed };
}

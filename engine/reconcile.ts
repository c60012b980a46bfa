/*
 * Finds operations on this node that nobody finishes, at worker start and every 30 s. A workload that may stand still
 * without a live runner is let go at once, whatever its workflow thinks. Everything else waits for Temporal's positive
 * word that the workflow is closed: unreachable is not closed. What has no workflow any more to ask for, because a reboot
 * took the operation's directory, is found by what lies on the disk.
 */
import { statSync } from 'node:fs';
import { messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { releaseHugePages } from './gpu/huge-pages.ts';
import { discardCapture } from './attach.ts';
import { sweepDisk } from './disk-leftovers.ts';
import { guardDue } from './freeze-budget.ts';
import { mayBeFrozen, mustBeUndone, readJournal } from './journal.ts';
import type { NodeDeps } from './node-deps.ts';
import { sweepOperationCgroups } from './operation-cgroup.ts';
import { runnerPid } from './runner-process.ts';
import { listOperations, operationPaths, readPlan, removeOperation, type OperationPlan } from './operation.ts';
import { isCommandAlive, readOwner } from './operation-owner.ts';
import { endRestore } from './restore-end.ts';
import { sweepOwnPlaces } from './own-places.ts';
import { listNotes, readNote } from './restore-notes.ts';
import { undoWithoutRunner } from './undo-dead.ts';
import { readRestore } from './restore-operation.ts';

/** What a runner without a guard may take for a clean undo, after a guard would have ended it. One that is later hangs. */
const RUNNER_GRACE_MS = 10_000;
/** Between the making of an operation's directory and the first file in it. */
const EMPTY_DIR_MS = 60_000;

export interface ReconcileResult {
  /** operation ids whose frozen section was undone */
  readonly undone: readonly string[];
  /** operation ids whose left-overs were removed */
  readonly cleaned: readonly string[];
  /** files and directories of no operation that were removed */
  readonly removed: readonly string[];
  readonly failed: ReadonlyArray<{ readonly operationId: string; readonly error: string }>;
}

/** true only on Temporal's own answer; undefined when it could not be asked */
export type IsRunClosed = (workflow: OperationPlan['workflow']) => Promise<boolean | undefined>;

export async function reconcile(deps: NodeDeps, op: Op, isRunClosed: IsRunClosed): Promise<ReconcileResult> {
  const { settings } = deps;
  const { undone, failed: standing } = await undoAbandoned(deps, op);
  const inVain = new Set(standing.map(({ operationId }) => operationId));
  const { done: cleaned, failed } = await ofEach(deps, op, async (operationId) => {
    if (inVain.has(operationId) || !(await isOver(settings, operationId, isRunClosed))) {
      return false;
    }
    const plan = readPlan(settings, operationId);
    await (plan === undefined ? endRestore(deps, op, operationId) : discardCapture(deps, op, plan));
    return true;
  });
  // Held by an operation whose directory is gone: a removal that died half-way.
  releaseHugePages(settings).forEach((warning) => op.log.warn({}, warning));
  await sweepOperationCgroups(settings);
  const removed = [...(await sweepDisk(settings, op)), ...(await sweepOwnPlaces(deps, op))];
  return { undone, cleaned, removed, failed: [...standing, ...failed] };
}

/**
 * What no workload waits for longer than it must: those that stand still without a live runner are let go. It needs
 * neither Temporal nor a look at the disk, so a worker that starts does it before its first task.
 */
export async function undoAbandoned(deps: NodeDeps, op: Op): Promise<Pick<ReconcileResult, 'undone' | 'failed'>> {
  const { done: undone, failed } = await ofEach(deps, op, async (operationId) => {
    const plan = readPlan(deps.settings, operationId);
    if (plan === undefined || !isAbandoned(plan)) {
      return false;
    }
    await undoWithoutRunner(deps, op, plan);
    return true;
  });
  return { undone, failed };
}

/** One that fails keeps nobody from the others. @param act tells whether there was something to do */
async function ofEach(
  { settings }: NodeDeps,
  op: Op,
  act: (operationId: string) => Promise<boolean>,
): Promise<{ done: string[]; failed: Array<ReconcileResult['failed'][number]> }> {
  const done: string[] = [];
  const failed: Array<ReconcileResult['failed'][number]> = [];
  for (const operationId of new Set([...(await listOperations(settings)), ...listNotes(settings)])) {
    try {
      if (await act(operationId)) {
        done.push(operationId);
      }
    } catch (error) {
      op.log.error({ operationId, error: messageOf(error) }, 'operation could not be reconciled');
      failed.push({ operationId, error: messageOf(error) });
    }
  }
  return { done, failed };
}

/** Does nobody drive it any more? A restore that others asked for ends with its bundle (`sweepRestores`). */
async function isOver(settings: NodeDeps['settings'], operationId: string, isRunClosed: IsRunClosed): Promise<boolean> {
  const restore = readRestore(settings, operationId);
  const owner = readOwner(settings, operationId);
  if (owner?.command !== undefined) {
    return !isCommandAlive(owner);
  }
  const workflow =
    readPlan(settings, operationId)?.workflow ?? owner?.workflow ?? readNote(settings, operationId)?.workflow;
  if (restore?.madeBy === 'others') {
    return false;
  }
  return workflow === undefined
    ? isOld(operationPaths(settings, operationId).dir, EMPTY_DIR_MS)
    : (await isRunClosed(workflow)) === true;
}

function isOld(dir: string, forMs: number): boolean {
  const stats = statSync(dir, { throwIfNoEntry: false });
  return stats !== undefined && Date.now() - stats.mtimeMs > forMs;
}

/** Does the workload stand still without a runner that works? The undo ends one that hangs. */
export function isAbandoned(plan: OperationPlan): boolean {
  const paths = operationPaths(plan.settings, plan.operationId);
  const entries = readJournal(paths.journal);
  if (runnerPid(paths) === undefined) {
    return mustBeUndone(entries);
  }
  const due = guardDue(entries, plan);
  return due !== undefined && Date.now() > due.atMs + RUNNER_GRACE_MS;
}

/** After the commit the operation's directory has served, unless a dead runner left the workload standing still. */
export function forgetOperation(deps: NodeDeps, operationId: string): void {
  if (mayBeFrozen(readJournal(operationPaths(deps.settings, operationId).journal))) {
    return;
  }
  removeOperation(deps.settings, operationId);
}

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
import { mayBeFrozen, mustBeUndone, readJournal, releaseDueMs } from './journal.ts';
import type { NodeDeps } from './node-deps.ts';
import { sweepOperationCgroups } from './operation-cgroup.ts';
import { runnerPid } from './runner-process.ts';
import { listOperations, operationPaths, readPlan, removeOperation, type OperationPlan } from './operation.ts';
import { readOwner } from './operation-owner.ts';
import { endRestore } from './restore-end.ts';
import { listNotes, readNote } from './restore-notes.ts';
import { undoWithoutRunner } from './undo-dead.ts';
import { readRestore } from './restore-operation.ts';

/** What a runner may take beyond its budget for a clean undo. One that is later hangs. */
const RUNNER_GRACE_MS = 30_000;
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
  const undone: string[] = [];
  const cleaned: string[] = [];
  const failed: { operationId: string; error: string }[] = [];
  const { settings } = deps;
  for (const operationId of new Set([...(await listOperations(settings)), ...listNotes(settings)])) {
    try {
      const plan = readPlan(settings, operationId);
      if (plan !== undefined && isAbandoned(plan)) {
        await undoWithoutRunner(deps, op, plan);
        undone.push(operationId);
      }
      if (await isOver(settings, operationId, isRunClosed)) {
        await (plan === undefined ? endRestore(deps, op, operationId) : discardCapture(deps, op, plan));
        cleaned.push(operationId);
      }
    } catch (error) {
      op.log.error({ operationId, error: messageOf(error) }, 'operation could not be reconciled');
      failed.push({ operationId, error: messageOf(error) });
    }
  }
  // Held by an operation whose directory is gone: a removal that died half-way.
  releaseHugePages(settings).forEach((warning) => op.log.warn({}, warning));
  await sweepOperationCgroups(settings);
  return { undone, cleaned, removed: await sweepDisk(settings, op), failed };
}

/** Does nobody drive it any more? A restore that others asked for ends with its bundle (`sweepRestores`). */
async function isOver(settings: NodeDeps['settings'], operationId: string, isRunClosed: IsRunClosed): Promise<boolean> {
  const restore = readRestore(settings, operationId);
  const workflow =
    readPlan(settings, operationId)?.workflow ??
    readOwner(settings, operationId)?.workflow ??
    readNote(settings, operationId)?.workflow;
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
  const dueMs = releaseDueMs(entries, plan);
  return dueMs !== undefined && Date.now() > dueMs + RUNNER_GRACE_MS;
}

/** After the commit the operation's directory has served, unless a dead runner left the workload standing still. */
export function forgetOperation(deps: NodeDeps, operationId: string): void {
  if (mayBeFrozen(readJournal(operationPaths(deps.settings, operationId).journal))) {
    return;
  }
  removeOperation(deps.settings, operationId);
}

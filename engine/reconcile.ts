/*
 * Finds operations on this node that nobody finishes, at worker start and every 30 s. A workload that may stand still
 * without a live runner is let go at once, whatever its workflow thinks. Everything else waits for Temporal's positive
 * word that the workflow is closed: unreachable is not closed.
 */
import { messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { releaseHugePages } from './gpu/huge-pages.ts';
import { discardCapture, runnerPid, undoWithoutRunner } from './attach.ts';
import { mayBeFrozen, readJournal, releaseDueMs } from './journal.ts';
import type { NodeDeps } from './node-deps.ts';
import { listOperations, operationPaths, readPlan, removeOperation, type OperationPlan } from './operation.ts';

/** What a runner may take beyond its budget for a clean undo. One that is later hangs. */
const RUNNER_GRACE_MS = 30_000;

export interface ReconcileResult {
  /** operation ids whose frozen section was undone */
  readonly undone: readonly string[];
  /** operation ids whose left-overs were removed */
  readonly cleaned: readonly string[];
  readonly failed: ReadonlyArray<{ readonly operationId: string; readonly error: string }>;
}

/** @param isRunClosed true only on Temporal's own answer; undefined when it could not be asked */
export async function reconcile(
  deps: NodeDeps,
  op: Op,
  isRunClosed: (workflow: OperationPlan['workflow']) => Promise<boolean | undefined>,
): Promise<ReconcileResult> {
  const undone: string[] = [];
  const cleaned: string[] = [];
  const failed: { operationId: string; error: string }[] = [];
  for (const operationId of await listOperations(deps.settings)) {
    try {
      const plan = readPlan(deps.settings, operationId);
      if (plan === undefined) {
        continue;
      }
      if (isAbandoned(plan)) {
        await undoWithoutRunner(deps, op, plan);
        undone.push(operationId);
      }
      if ((await isRunClosed(plan.workflow)) === true) {
        await discardCapture(deps, op, plan);
        cleaned.push(operationId);
      }
    } catch (error) {
      op.log.error({ operationId, error: messageOf(error) }, 'operation could not be reconciled');
      failed.push({ operationId, error: messageOf(error) });
    }
  }
  // Held by an operation whose directory is gone: a removal that died half-way.
  releaseHugePages(deps.settings).forEach((warning) => op.log.warn({}, warning));
  return { undone, cleaned, failed };
}

/** Does the workload stand still without a runner that works? The undo ends one that hangs. */
function isAbandoned(plan: OperationPlan): boolean {
  const paths = operationPaths(plan.settings, plan.operationId);
  const entries = readJournal(paths.journal);
  if (runnerPid(paths) === undefined) {
    return mayBeFrozen(entries);
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

/* Operations as their directories tell of them, read back against the freezer, the sockets and the driver. */
import { isKybernateError, messageOf } from '../../core/errors.ts';
import { freezerState } from '../freezer.ts';
import { mayBeFrozen, readJournal, standsOnPurpose, type JournalEntry } from '../journal.ts';
import { listOperations, operationPaths, readPlan, type OperationPlan } from '../operation.ts';
import { isCommandAlive, readOwner } from '../operation-owner.ts';
import { isAbandoned } from '../reconcile.ts';
import { readRestore } from '../restore-operation.ts';
import { runnerPid } from '../runner-process.ts';
import { undoWithoutRunner } from '../undo-dead.ts';
import { verifyRunning } from '../verify-running.ts';
import type { Finding, RescueDeps } from './finding.ts';

const WORKER = 'start `kybernate worker node`: it ends what Temporal calls closed, and lets the rest go on';

export async function operationFindings(deps: RescueDeps): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const operationId of await listOperations(deps.settings)) {
    try {
      const plan = readPlan(deps.settings, operationId);
      findings.push(
        plan === undefined ? restoreFinding(deps, operationId) : await checkpointFinding(deps, operationId, plan),
      );
    } catch (error) {
      findings.push({
        kind: 'operation',
        id: operationId,
        state: 'poisoned',
        detail: `${operationPaths(deps.settings, operationId).dir} cannot be read: ${messageOf(error)}`,
        remedy: 'see whether its container runs; then remove the directory',
      });
    }
  }
  return findings;
}

async function checkpointFinding(deps: RescueDeps, operationId: string, plan: OperationPlan): Promise<Finding> {
  const paths = operationPaths(deps.settings, operationId);
  const found = {
    kind: 'operation',
    id: operationId,
    container: `${plan.container.namespace}/${plan.container.id}`,
  } as const;
  const pid = runnerPid(paths);
  const isHung = pid !== undefined && isAbandoned(plan);
  if (pid !== undefined && !isHung) {
    return {
      ...found,
      state: 'at work',
      detail: `its runner, pid ${pid}, is alive and within its budgets`,
      remedy: 'wait, or `kybernate cancel` its workflow',
      repair: () => undo(deps, plan),
    };
  }
  const entries = readJournal(paths.journal);
  if (!mayBeFrozen(entries)) {
    return { ...found, state: 'left', detail: 'its frozen section is over, its directory waits', remedy: WORKER };
  }
  if (standsOnPurpose(entries)) {
    return {
      ...found,
      state: 'on purpose',
      detail: 'its source was given up for a second owner, so nobody lets it go',
      remedy: 'see that the second owner runs; then end this container by its runtime',
    };
  }
  const seen = await whatIsWrong(deps, plan);
  const who = isHung ? `its runner, pid ${pid}, hangs` : 'its runner is gone';
  return seen === undefined
    ? {
        ...found,
        state: 'left',
        detail: `${who}; its journal ends in the frozen section, and the workload runs`,
        remedy: '`kybernate rescue --apply` writes that down',
        repair: () => undo(deps, plan),
      }
    : {
        ...found,
        state: wasUndone(entries) ? 'poisoned' : 'stands still',
        detail: `${who}; ${seen}`,
        remedy: '`kybernate rescue --apply` lets the workload go',
        repair: () => undo(deps, plan),
      };
}

/** An undo that did not come to its verified end. */
function wasUndone(entries: readonly JournalEntry[]): boolean {
  const last = entries.findLast(({ step }) => step === 'undone');
  return last !== undefined && last.state !== 'done';
}

/** @returns undefined when the workload runs, or has ended */
async function whatIsWrong(deps: RescueDeps, plan: OperationPlan): Promise<string | undefined> {
  const state = freezerState(plan.facts.freezer);
  if (state === 'frozen' || state === 'freezing') {
    // The driver is not asked about a process that stands still: the call would hang.
    return `its freezer is ${state} (${plan.facts.freezer.path})`;
  }
  try {
    await verifyRunning(plan, deps, deps.log, 0);
    return undefined;
  } catch (error) {
    if (isKybernateError(error, 'Poisoned')) {
      return error.message;
    }
    throw error;
  }
}

async function undo(deps: RescueDeps, plan: OperationPlan): Promise<string> {
  const op = { signal: new AbortController().signal, log: deps.log, progress: () => undefined };
  const result = await undoWithoutRunner(deps, op, plan);
  return result.source === 'running'
    ? 'undone, and read back: the workload runs'
    : `undone, and read back: the container is ${result.source}`;
}

function restoreFinding({ settings }: RescueDeps, operationId: string): Finding {
  const record = readRestore(settings, operationId);
  const { dir } = operationPaths(settings, operationId);
  const owner = readOwner(settings, operationId);
  if (owner !== undefined && isCommandAlive(owner)) {
    return {
      kind: 'restore',
      id: operationId,
      state: 'at work',
      detail: `${dir}: a restore by a command, pid ${owner.command?.pid}`,
      remedy: 'wait for it',
    };
  }
  return {
    kind: 'restore',
    id: operationId,
    ...(record === undefined ? {} : { container: `${record.container.namespace}/${record.container.id}` }),
    state: 'left',
    detail: `${dir}: ${record === undefined ? 'a fetch, or a restore that made nothing yet' : `a restore, ${record.state}`}`,
    remedy: WORKER,
  };
}

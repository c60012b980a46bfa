/*
 * A workflow that holds its source waits for a word, or for the end of its budget. When the source was let go meanwhile, by
 * the freeze guard, a worker or a person, because its runner had died, nothing is held any more: until somebody tells the
 * workflow it keeps the container's lock and says that the source stands still, for as long as the budget lasts.
 */
import { lastDone, mayBeFrozen, readJournal } from './journal.ts';
import type { NodeSettings } from './node-deps.ts';
import { listOperations, operationPaths, readPlan, type OperationPlan } from './operation.ts';
import { isAgentOperation } from './operation-owner.ts';
import { runnerPid } from './runner-process.ts';

/** Operations whose hold is over, and whose workflow has not asked for that yet. */
export async function lostHolds(settings: Pick<NodeSettings, 'runDir'>): Promise<readonly OperationPlan[]> {
  const plans = (await listOperations(settings)).flatMap((operationId) => readPlan(settings, operationId) ?? []);
  // A call to the agent is no workflow: it hears of its end by itself.
  return plans.filter((plan) => plan.after === 'hold' && !isAgentOperation(plan.workflow) && isOver(plan));
}

function isOver(plan: OperationPlan): boolean {
  const paths = operationPaths(plan.settings, plan.operationId);
  if (runnerPid(paths) !== undefined) {
    return false;
  }
  const entries = readJournal(paths.journal);
  const wasHeld = lastDone(entries, 'held') !== undefined;
  // `verified` is written for the workflow, at the end of its hold.
  return wasHeld && !mayBeFrozen(entries) && lastDone(entries, 'verified') === undefined;
}

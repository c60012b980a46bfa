/* The looks of a node worker at what nobody finishes: at its start, and again and again beside its work. */
import { WorkflowNotFoundError, type Client } from '@temporalio/client';
import { isRunClosed } from '../activities/control/runs.ts';
import { messageOf } from '../core/errors.ts';
import type { Meter } from '../core/metrics.ts';
import type { Op } from '../core/op.ts';
import { lostHolds } from '../engine/lost-holds.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import type { OperationPlan } from '../engine/operation.ts';
import { isAgentOperation, isUnderWay } from '../engine/operation-owner.ts';
import { reconcile, undoAbandoned, type ReconcileResult } from '../engine/reconcile.ts';

export interface ReconcilingParts {
  readonly client: Client;
  readonly meter: Meter;
  readonly everyMs: number;
}

/**
 * Workloads that stand still are let go before it returns; the rest comes beside the work.
 * @returns a function that ends the looks
 */
export async function startReconciling(
  node: NodeDeps,
  op: Op,
  { client, meter, everyMs }: ReconcilingParts,
): Promise<() => void> {
  let leftovers = 0;
  meter.gauge('kybernate_leftovers', async () => [{ labels: {}, value: leftovers }]);
  const told = async (run: () => Promise<Partial<ReconcileResult>>): Promise<void> => {
    try {
      const result = await run();
      leftovers = result.failed?.length ?? 0;
      for (const what of ['undone', 'cleaned', 'removed'] as const) {
        meter.add('kybernate_reconciled_total', { what }, result[what]?.length ?? 0);
      }
      if (Object.values(result).some((list) => list.length > 0)) {
        op.log.warn({ ...result }, 'operations reconciled');
      }
    } catch (error) {
      op.log.error({ error: messageOf(error) }, 'reconciliation failed');
    }
  };
  const isClosed = closedBy(client, op);
  const release = releaseOnce(client, op);
  let busy = false;
  const once = async (): Promise<void> => {
    if (busy) {
      return;
    }
    busy = true;
    await told(() => reconcile(node, op, isClosed));
    await release(node);
    busy = false;
  };
  await told(() => undoAbandoned(node, op));
  void once();
  const timer = setInterval(() => void once(), everyMs);
  return () => clearInterval(timer);
}

function closedBy(client: Client, op: Op): (workflow: OperationPlan['workflow']) => Promise<boolean | undefined> {
  return async (workflow) => {
    const { workflowId, runId } = workflow;
    if (isAgentOperation(workflow)) {
      return !isUnderWay(workflow);
    }
    try {
      return await isRunClosed(client, workflowId, runId);
    } catch (error) {
      op.log.warn({ workflowId, error: messageOf(error) }, 'cannot ask Temporal about a left-over');
      return undefined;
    }
  };
}

/** Each workflow is told once by this process: one whose own worker is away has the word waiting. */
function releaseOnce(client: Client, op: Op): (node: NodeDeps) => Promise<void> {
  const told = new Set<string>();
  const tell = async ({ operationId, workflow: { workflowId, runId } }: OperationPlan): Promise<void> => {
    try {
      await client.workflow.getHandle(workflowId, runId).signal('release');
      op.log.warn({ operationId, workflowId }, 'a hold is over, its source was let go: its workflow was told');
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) {
        throw error;
      }
      // It is closed: the next look ends its operation.
    }
    told.add(operationId);
  };
  return async ({ settings }) => {
    try {
      const holds = await lostHolds(settings);
      for (const hold of holds.filter(({ operationId }) => !told.has(operationId))) {
        await tell(hold);
      }
    } catch (error) {
      op.log.warn({ error: messageOf(error) }, 'a workflow could not be told that its hold is over');
    }
  };
}

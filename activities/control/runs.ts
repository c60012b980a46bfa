import { WorkflowNotFoundError, type Client } from '@temporalio/client';

const CLOSED: ReadonlySet<string> = new Set([
  'COMPLETED',
  'FAILED',
  'CANCELLED',
  'TERMINATED',
  'CONTINUED_AS_NEW',
  'TIMED_OUT',
]);

/**
 * Has this run ended? Only Temporal's own word counts.
 * @throws whatever kept Temporal from answering: unreachable is not closed
 */
export async function isRunClosed(client: Client, workflowId: string, runId: string): Promise<boolean> {
  try {
    const { status } = await client.workflow.getHandle(workflowId, runId).describe();
    return CLOSED.has(status.name);
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) {
      return true;
    }
    throw error;
  }
}

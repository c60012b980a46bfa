import { getClient } from '@temporalio/activity';
import type { LockInput } from '../../core/contract/lock.ts';
import { lockWorkflowId } from '../../core/ids.ts';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import type { ControlActivities, RequestLockInput, RunRef } from '../contract.ts';
import { isRunClosed } from './runs.ts';

/** @param settings how the lock that is started here watches its holder and ends; the lock's defaults otherwise */
export function lockActivities(settings: LockInput = {}): Pick<ControlActivities, 'requestLock' | 'isRunClosed'> {
  return {
    /** Starts the lock unless it runs, and asks. A repeated request keeps its place. */
    async requestLock({ container, request }: RequestLockInput): Promise<void> {
      await getClient().workflow.signalWithStart('containerLock', {
        workflowId: lockWorkflowId(container),
        taskQueue: CONTROL_QUEUE,
        args: [settings],
        signal: 'requestLock',
        signalArgs: [request],
        staticSummary: `lock of container ${container.namespace}/${container.id} on ${container.node}`,
      });
    },

    /** Only Temporal's own word counts: a server that does not answer makes this fail, and be tried again. */
    async isRunClosed({ workflowId, runId }: RunRef): Promise<{ closed: boolean }> {
      return { closed: await isRunClosed(getClient(), workflowId, runId) };
    },
  };
}

/* Who works for operations that are started at a Temporal server. */
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { Connection } from '@temporalio/client';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import { definedVariables } from '../connect.ts';
import type { Env } from './programs.ts';

const CONNECT_MS = 1000;
/** TASK_QUEUE_TYPE_WORKFLOW of temporal.api.enums.v1. */
const WORKFLOW_TASKS = 1;

/**
 * @returns how many workers ask for workflows of Kybernate
 * @throws the server's words: no such namespace, no permission
 */
export async function countPollers(env: Env, address: string, namespace: string): Promise<number> {
  const { connectionOptions } = loadClientConnectConfig({ overrideEnvVars: definedVariables(env) });
  const connection = await Connection.connect({ ...connectionOptions, address, connectTimeout: CONNECT_MS });
  try {
    const { pollers } = await connection.workflowService.describeTaskQueue({
      namespace,
      taskQueue: { name: CONTROL_QUEUE },
      taskQueueType: WORKFLOW_TASKS,
    });
    return pollers?.length ?? 0;
  } finally {
    await connection.close();
  }
}

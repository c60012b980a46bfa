/* Connects to Temporal by the typed client; loaded by the first command that needs it. */
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { Connection } from '@temporalio/client';
import { createKybernateClient } from '../client/index.ts';
import { messageOf } from '../core/errors.ts';
import { CONTROL_QUEUE } from '../core/task-queues.ts';
import type { Environment } from './config.ts';
import { CliError } from './exit-codes.ts';
import type { Operations } from './operation.ts';

const CONNECT_MS = 1000;
/** TASK_QUEUE_TYPE_WORKFLOW of temporal.api.enums.v1. */
const WORKFLOW_TASKS = 1;

/** @throws TemporalUnreachable */
export async function connectOperations(env: Environment): Promise<Operations> {
  const client = await reachable(env, () => createKybernateClient({ env }));
  const { address } = temporalServer(env);
  return { ...client, address, controlWorkers: () => countPollers(env, address, client.namespace) };
}

/**
 * @returns how many workers ask for workflows of Kybernate; the server remembers one that went away for some minutes
 * @throws the server's words: no such namespace, no permission
 */
export async function countPollers(env: Environment, address: string, namespace: string): Promise<number> {
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

/** Where Temporal is looked for: by the variables, else by temporal.toml, else the default of all its tools. */
export function temporalServer(env: Environment): { address: string; namespace: string } {
  const { connectionOptions, namespace } = loadClientConnectConfig({ overrideEnvVars: definedVariables(env) });
  return { address: connectionOptions.address ?? 'localhost:7233', namespace: namespace ?? 'default' };
}

/** Only the values that are there, as Temporal's reader of the environment wants them. */
export function definedVariables(env: Environment): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));
}

/** @throws TemporalUnreachable naming the address, for every reason why there is no connection */
export async function reachable<Result>(env: Environment, connect: () => Promise<Result>): Promise<Result> {
  try {
    return await connect();
  } catch (error) {
    const { address } = temporalServer(env);
    throw new CliError(
      'TemporalUnreachable',
      `no connection to the Temporal server at ${address}: ${messageOf(error)}`,
      { details: { address }, cause: error },
    );
  }
}

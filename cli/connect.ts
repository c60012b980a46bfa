/* Connects to Temporal by the typed client; loaded by the first command that needs it. */
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { Connection } from '@temporalio/client';
import { optionalTsToMs } from '@temporalio/common/lib/time.js';
import { createKybernateClient } from '../client/index.ts';
import { messageOf } from '../core/errors.ts';
import { CONTROL_QUEUE } from '../core/task-queues.ts';
import type { Tracing } from '../workers/tracing.ts';
import type { Environment } from './config.ts';
import { CliError } from './exit-codes.ts';
import type { Operations } from './operation.ts';

const CONNECT_MS = 1000;
/** TASK_QUEUE_TYPE_WORKFLOW and PENDING_WORKFLOW_TASK_STATE_SCHEDULED of temporal.api.enums.v1. */
const WORKFLOW_TASKS = 1;
const SCHEDULED = 1;
/** A worker that finds nothing to do asks again after a minute at the latest. */
const LONGEST_POLL_MS = 75_000;
type WorkflowService = Connection['workflowService'];

/** @throws TemporalUnreachable */
export async function connectOperations(
  env: Environment,
  tracing: Pick<Tracing, 'client'> = { client: [] },
): Promise<Operations> {
  const client = await reachable(env, () => createKybernateClient({ env, interceptors: tracing.client }));
  const { address } = temporalServer(env);
  const controlWorkers = (run: RunRef): Promise<number> =>
    asked(env, address, async ({ workflowService: service }) => {
      const { namespace } = client;
      const sinceMs = await waitsSince(service, namespace, run);
      return (await lastPolls(service, namespace)).filter((atMs) => atMs >= sinceMs).length;
    });
  return { ...client, address, controlWorkers };
}

interface RunRef {
  readonly workflowId: string;
  readonly runId?: string | undefined;
}

/**
 * @returns how many workers ask for workflows of Kybernate
 * @throws the server's words: no such namespace, no permission
 */
export function countPollers(env: Environment, address: string, namespace: string): Promise<number> {
  const sinceMs = Date.now() - LONGEST_POLL_MS;
  return asked(
    env,
    address,
    async ({ workflowService }) =>
      (await lastPolls(workflowService, namespace)).filter((atMs) => atMs >= sinceMs).length,
  );
}

async function asked<Answer>(
  env: Environment,
  address: string,
  ask: (connection: Connection) => Promise<Answer>,
): Promise<Answer> {
  const { connectionOptions } = loadClientConnectConfig({ overrideEnvVars: definedVariables(env) });
  const connection = await Connection.connect({ ...connectionOptions, address, connectTimeout: CONNECT_MS });
  try {
    return await ask(connection);
  } finally {
    await connection.close();
  }
}

/** When each worker asked last, in ms since the epoch: the server lists one that is gone for five minutes more. */
async function lastPolls(service: WorkflowService, namespace: string): Promise<number[]> {
  const { pollers } = await service.describeTaskQueue({
    namespace,
    taskQueue: { name: CONTROL_QUEUE },
    taskQueueType: WORKFLOW_TASKS,
  });
  return (pollers ?? []).map(({ lastAccessTime }) => optionalTsToMs(lastAccessTime) ?? 0);
}

/**
 * Since when a task of the workflow waits for a worker, by the server's clock; 0 when none waits. A worker that lives takes
 * a task at once and asks again: who has not asked since then is gone.
 */
async function waitsSince(service: WorkflowService, namespace: string, run: RunRef): Promise<number> {
  const { workflowId, runId } = run;
  const execution = { workflowId, ...(runId ? { runId } : {}) };
  const { pendingWorkflowTask: task } = await service.describeWorkflowExecution({ namespace, execution });
  return Number(task?.state) === SCHEDULED ? (optionalTsToMs(task?.scheduledTime) ?? 0) : 0;
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

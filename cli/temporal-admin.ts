/* The calls of `temporal apply`, on a real server. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection, ScheduleClient, ScheduleNotFoundError } from '@temporalio/client';
import type { ScheduleOptions } from '@temporalio/client';
import { msToTs } from '@temporalio/common/lib/time.js';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { KybernateError } from '../core/errors.ts';
import type { Environment } from './config.ts';
import { definedVariables, reachable } from './connect.ts';
import type { TemporalAdmin } from './temporal-apply.ts';
import { ATTRIBUTE_TYPES } from './temporal-config.ts';
import type { AttributeType, ScheduleConfig } from './temporal-config.ts';

/** temporal.api.enums.v1.IndexedValueType: 1 is Text, and so on, in this order. */
const FIRST_ATTRIBUTE_TYPE = 1;
/** Servers read their namespaces again every 10 s. */
const NAMESPACE_VISIBLE_MS = 30_000;
const GRPC_NOT_FOUND = 5;

export interface ConnectedAdmin {
  readonly admin: TemporalAdmin;
  readonly namespace: string;
  close(): Promise<void>;
}

/** @throws TemporalUnreachable */
export async function connectAdmin(env: Environment): Promise<ConnectedAdmin> {
  const config = loadClientConnectConfig({ overrideEnvVars: definedVariables(env) });
  const connection = await reachable(env, () => Connection.connect(config.connectionOptions));
  return {
    admin: createAdmin(connection),
    namespace: config.namespace ?? 'default',
    close: () => connection.close(),
  };
}

function createAdmin(connection: Connection): TemporalAdmin {
  async function hasNamespace(name: string): Promise<boolean> {
    try {
      await connection.workflowService.describeNamespace({ namespace: name });
      return true;
    } catch (error) {
      if (isNotFound(error)) {
        return false;
      }
      throw error;
    }
  }
  return {
    hasNamespace,
    registerNamespace: async (name, retentionMs) => {
      await connection.workflowService.registerNamespace({
        namespace: name,
        description: 'checkpoint and restore of containers by Kybernate',
        workflowExecutionRetentionPeriod: msToTs(retentionMs),
      });
      const deadline = Date.now() + NAMESPACE_VISIBLE_MS;
      while (!(await canSchedule(connection, name))) {
        if (Date.now() > deadline) {
          throw new KybernateError('Internal', `namespace ${name} was registered but cannot be used after 30 s`);
        }
        await sleep(250);
      }
    },
    searchAttributes: async (namespace) => {
      const answer = await connection.operatorService.listSearchAttributes({ namespace });
      const known = new Map<string, AttributeType>();
      for (const [name, number] of Object.entries(answer.customAttributes)) {
        const type = ATTRIBUTE_TYPES[number - FIRST_ATTRIBUTE_TYPE];
        if (type !== undefined) {
          known.set(name, type);
        }
      }
      return known;
    },
    addSearchAttributes: async (namespace, attributes) => {
      await connection.operatorService.addSearchAttributes({
        namespace,
        searchAttributes: Object.fromEntries(
          [...attributes].map(([name, type]) => [name, ATTRIBUTE_TYPES.indexOf(type) + FIRST_ATTRIBUTE_TYPE]),
        ),
      });
    },
    scheduleNote: async (namespace, id) => {
      try {
        return (await schedules(connection, namespace).getHandle(id).describe()).state.note ?? '';
      } catch (error) {
        if (error instanceof ScheduleNotFoundError) {
          return undefined;
        }
        throw error;
      }
    },
    createSchedule: async (namespace, id, schedule, note) => {
      await schedules(connection, namespace).create({ scheduleId: id, ...scheduleOptions(schedule, note) });
    },
    updateSchedule: async (namespace, id, schedule, note) => {
      await schedules(connection, namespace)
        .getHandle(id)
        .update(() => ({ ...scheduleOptions(schedule, note), state: { note, paused: schedule.paused } }));
    },
  };
}

/** Some services of a server learn of a new namespace later than others. */
async function canSchedule(connection: Connection, namespace: string): Promise<boolean> {
  try {
    await connection.workflowService.listWorkflowExecutions({ namespace, pageSize: 1 });
    await connection.operatorService.listSearchAttributes({ namespace });
    return true;
  } catch (error) {
    if (isNotFound(error)) {
      return false;
    }
    throw error;
  }
}

function schedules(connection: Connection, namespace: string): ScheduleClient {
  return new ScheduleClient({ connection, namespace });
}

function scheduleOptions(
  schedule: ScheduleConfig,
  note: string,
): Omit<ScheduleOptions, 'scheduleId'> & { action: { type: 'startWorkflow' } } {
  return {
    spec: {
      ...(schedule.every === undefined ? {} : { intervals: [{ every: schedule.every }] }),
      ...(schedule.cron === undefined ? {} : { cronExpressions: [schedule.cron] }),
    },
    action: {
      type: 'startWorkflow',
      workflowType: schedule.workflow,
      taskQueue: schedule.taskQueue,
      args: [schedule.input],
    },
    policies: { overlap: 'SKIP' },
    state: { note, paused: schedule.paused },
  };
}

function isNotFound(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === GRPC_NOT_FOUND;
}

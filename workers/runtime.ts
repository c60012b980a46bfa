/* What every Temporal worker process has in common: log, metrics, connection, start-up checks. */
import { loadClientConnectConfig } from '@temporalio/envconfig';
import {
  NativeConnection,
  Runtime,
  makeTelemetryFilterString,
  type LogLevel,
  type LogMetadata,
  type Logger as TemporalLogger,
} from '@temporalio/worker';
import { pino } from 'pino';
import { operationIdOf } from '../activities/op.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import { bucketsOf, type Meter } from '../core/metrics.ts';
import type { Logger } from '../core/op.ts';
import { SEARCH_ATTRIBUTES } from '../core/search-attributes.ts';
import { openBackend, type StoreSettings } from '../store/backend/open.ts';
import type { Backend } from '../store/backend/backend.ts';
import { observed } from '../store/backend/observed.ts';
import type { KeyRing } from '../store/crypto/key-ring.ts';
import type { ControlConfig, Environment, ProcessConfig } from './config.ts';
import { keyed } from './keys.ts';

/** How long a stopping worker lets its activities finish before it cancels them. */
export const SHUTDOWN_GRACE_MS = 10_000;
const WORKER_HEARTBEAT_MS = 10_000;
/** Activities last from milliseconds to half an hour; the default buckets end at 10 s. */
const DURATION_BUCKETS_S = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800];

/** @param process which process speaks. It and the node are of every line that does not say otherwise: none has a key twice. */
export function createLog(config: ProcessConfig, process: 'control' | 'node' | 'sidecar' | 'operator'): Logger {
  const { KYBERNATE_LOG_LEVEL: level, KYBERNATE_NODE: node } = config;
  return pino({ level, base: null, mixin: () => ({ process, node }) });
}

let installed = false;

/**
 * Once per process, before the first connection: JSON log through `log`, worker heartbeats.
 * @param metricsAddress where the SDK answers with its metrics and those of workflows; undefined: nowhere
 */
export function installRuntime(config: ProcessConfig, log: Logger, metricsAddress?: string): void {
  if (installed) {
    return;
  }
  installed = true;
  Runtime.install({
    logger: temporalLogger(log),
    workerHeartbeatInterval: WORKER_HEARTBEAT_MS,
    // The entry decides when a process ends; it stops all its workers in order.
    shutdownSignals: [],
    telemetryOptions: {
      logging: { forward: {}, filter: makeTelemetryFilterString({ core: 'WARN', other: 'WARN' }) },
      ...(metricsAddress === undefined
        ? {}
        : {
            metrics: {
              prometheus: {
                bindAddress: metricsAddress,
                useSecondsForDurations: true,
                unitSuffix: true,
                histogramBucketOverrides: {
                  temporal_activity_execution_latency: DURATION_BUCKETS_S,
                  ...bucketsOf('workflows'),
                },
              },
              globalTags: { node: config.KYBERNATE_NODE },
            },
          }),
    },
  });
}

export interface TemporalConnection {
  readonly connection: NativeConnection;
  readonly namespace: string;
}

type TemporalConfig = ReturnType<typeof loadClientConnectConfig>;

/** As TEMPORAL_* and temporal.toml say; reads files. */
export function temporalConfig(env: Environment): TemporalConfig {
  const overrideEnvVars = Object.fromEntries(
    Object.entries(env).filter((pair): pair is [string, string] => pair[1] !== undefined),
  );
  return loadClientConnectConfig({ overrideEnvVars });
}

/**
 * Connects, and checks that the server is prepared.
 * @throws KybernateError `Incompatible` when namespace or search attributes are missing, with the command that makes them
 */
export async function connectTemporal(config: TemporalConfig): Promise<TemporalConnection> {
  const namespace = config.namespace ?? 'default';
  const address = config.connectionOptions.address ?? 'localhost:7233';
  const connection = await NativeConnection.connect({ ...config.connectionOptions }).catch((error: unknown) => {
    throw new KybernateError(
      'Incompatible',
      `no Temporal server answers on ${address} (${messageOf(error)}); start one (kybernate up) or set TEMPORAL_ADDRESS`,
      { cause: error },
    );
  });
  try {
    await checkServer(connection, namespace, address);
    return { connection, namespace };
  } catch (error) {
    await connection.close();
    throw error;
  }
}

const GRPC_NOT_FOUND = 5;

async function checkServer(connection: NativeConnection, namespace: string, address: string): Promise<void> {
  try {
    await connection.workflowService.describeNamespace({ namespace });
  } catch (error) {
    if (codeOf(error) !== GRPC_NOT_FOUND) {
      throw error;
    }
    throw notPrepared(`the Temporal server on ${address} has no namespace ${namespace}`, error);
  }
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
  const missing = Object.values(SEARCH_ATTRIBUTES).filter((name) => !Object.hasOwn(customAttributes, name));
  if (missing.length > 0) {
    throw notPrepared(`namespace ${namespace} on ${address} lacks the search attributes ${missing.join(', ')}`);
  }
}

function notPrepared(what: string, cause?: unknown): KybernateError {
  return new KybernateError('Incompatible', `${what}: run "kybernate temporal apply" first`, { cause });
}

function codeOf(error: unknown): number {
  return typeof error === 'object' && error !== null && 'code' in error ? Number(error.code) : -1;
}

/**
 * @param ring absent: the store is plain, or its content is not looked at
 * @returns undefined when no store is configured
 */
export function storeOpener(
  config: ControlConfig,
  { ring, meter }: { readonly ring: KeyRing | undefined; readonly meter: Meter },
): (() => Promise<Backend>) | undefined {
  const { KYBERNATE_STORE: url } = config;
  return url === undefined
    ? undefined
    : keyed(
        opener(async () => observed(await openBackend(url, storeSettings(config)), meter)),
        ring,
      );
}

export function storeSettings(config: ControlConfig): StoreSettings {
  const { KYBERNATE_S3_ENDPOINT: endpoint, KYBERNATE_S3_REGION: region } = config;
  return { region, ...(endpoint === undefined ? {} : { endpoint }) };
}

/** Opened at the first use and kept; a failed opening is tried anew by the next caller. */
export function opener<Opened>(open: () => Promise<Opened>): () => Promise<Opened> {
  let opened: Promise<Opened> | undefined;
  return () => {
    opened ??= open().catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    return opened;
  };
}

/** Temporal's levels on ours. */
const LEVELS = { TRACE: 'debug', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' } as const;

function temporalLogger(log: Logger): TemporalLogger {
  const write = (level: LogLevel, message: string, meta: LogMetadata = {}): void => {
    log[LEVELS[level]](logFields(meta), message);
  };
  return {
    log: write,
    trace: (message, meta) => write('TRACE', message, meta),
    debug: (message, meta) => write('DEBUG', message, meta),
    info: (message, meta) => write('INFO', message, meta),
    warn: (message, meta) => write('WARN', message, meta),
    error: (message, meta) => write('ERROR', message, meta),
  };
}

/** What the SDK adds and nobody reads. */
const DROPPED = new Set(['taskToken', 'sdkComponent', 'isLocal']);

/**
 * With the keys of all our logs: what the SDK calls `workflowRunId` in a step and `runId` in a workflow is one thing, and
 * the operation is found by its own id. JSON knows no bigint, and an Error would become `{}`.
 */
export function logFields(meta: LogMetadata): Record<string, unknown> {
  const { workflowRunId, ...rest } = meta as LogMetadata & { readonly workflowRunId?: string };
  const { workflowId, runId = workflowRunId } = rest as { readonly workflowId?: string; readonly runId?: string };
  const entries = Object.entries(rest).filter(([key]) => !DROPPED.has(key));
  return {
    ...(workflowId === undefined || runId === undefined
      ? {}
      : { operationId: operationIdOf(workflowId, runId), runId }),
    ...Object.fromEntries(entries.map(([key, value]) => [key, serializable(value)])),
  };
}

function serializable(value: unknown): unknown {
  if (typeof value === 'bigint') {
    return value.toString();
  }
  return value instanceof Error ? { type: value.name, message: value.message } : value;
}

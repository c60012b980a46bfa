/* The control worker: all workflows, and the activities that need no node. Unprivileged. */
import { hostname } from 'node:os';
import { Worker } from '@temporalio/worker';
import { createControlActivities } from '../activities/control/index.ts';
import { mapErrorsInterceptor } from '../activities/map-errors.ts';
import { observeSteps } from '../activities/observe.ts';
import type { LockInput } from '../core/contract/lock.ts';
import type { Logger } from '../core/op.ts';
import { CONTROL_QUEUE } from '../core/task-queues.ts';
import { workflowBundlePath } from './build-bundle.ts';
import { controlEnv, readConfig, redacted, type Environment } from './config.ts';
import { keyRingOf } from './keys.ts';
import { startMetrics } from './metrics.ts';
import {
  SHUTDOWN_GRACE_MS,
  connectTemporal,
  createLog,
  installRuntime,
  storeOpener,
  temporalConfig,
} from './runtime.ts';
import { runWorkers, type RunningWorker } from './run-workers.ts';
import { startTracing } from './tracing.ts';

export interface ControlWorkerOptions {
  readonly env?: Environment;
  readonly log?: Logger;
  /** for tests: how locks watch their holders and end */
  readonly lock?: LockInput;
}

/**
 * Starts polling and returns; `done` ends when the worker has.
 * @throws InvalidInput a variable is wrong; Incompatible the Temporal server is away or not prepared
 */
export async function startControlWorker(options: ControlWorkerOptions = {}): Promise<RunningWorker> {
  const env = options.env ?? process.env;
  const config = readConfig(controlEnv, env);
  const log = options.log ?? createLog(config, 'control');
  const { KYBERNATE_NODE: node, KYBERNATE_METRICS_ADDRESS: address } = config;
  const tracing = await startTracing({ service: 'kybernate-control', env, log });
  const metrics = await startMetrics({ address, process: 'control', node, log });
  installRuntime(config, log, metrics.sdkAddress);
  const { connection, namespace } = await connectTemporal(temporalConfig(env));
  const backend = storeOpener(config, { ring: await keyRingOf(config), meter: metrics.meter });
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue: CONTROL_QUEUE,
    identity: `kybernate-control@${hostname()}`,
    workflowBundle: { codePath: await workflowBundlePath(tracing.on ? 'traced' : 'plain') },
    sinks: tracing.sinks,
    activities: createControlActivities({
      ...(backend === undefined ? {} : { backend }),
      ...(options.lock === undefined ? {} : { lock: options.lock }),
    }),
    interceptors: { activity: [...tracing.activity, observeSteps(metrics.meter), mapErrorsInterceptor] },
    shutdownGraceTime: SHUTDOWN_GRACE_MS,
  });
  log.info({ namespace, config: redacted(config) }, 'control worker starts');
  return runWorkers({
    workers: [worker],
    connection,
    log,
    async cleanUp() {
      await tracing.close();
      await metrics.close();
    },
  });
}

/* `kybernate operator`: the objects `Checkpoint` and `Restore` of a Kubernetes cluster, as workflows. Unprivileged. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { KubeConfig } from '@kubernetes/client-node';
import { createKybernateClient } from '../client/index.ts';
import { KybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import { operationsOf } from '../operator/operations.ts';
import { runOperator } from '../operator/run.ts';
import { newOperatorState } from '../operator/state.ts';
import { operatorEnv, readConfig, type Environment } from './config.ts';
import { startMetrics } from './metrics.ts';
import { startHealth } from './operator-health.ts';
import type { RunningWorker } from './run-workers.ts';
import { createLog } from './runtime.ts';
import { startTracing } from './tracing.ts';

export interface OperatorWorkerOptions {
  readonly env?: Environment;
  readonly log?: Logger;
}

/** @throws InvalidInput a variable is wrong; Incompatible no cluster is configured; Temporal's error when it is away */
export async function startOperator(options: OperatorWorkerOptions = {}): Promise<RunningWorker> {
  const env = options.env ?? process.env;
  const config = readConfig(operatorEnv, env);
  const log = options.log ?? createLog(config, 'operator');
  const kubernetes = new KubeConfig();
  kubernetes.loadFromDefault();
  const server = kubernetes.getCurrentCluster()?.server;
  if (server === undefined) {
    throw new KybernateError('Incompatible', 'no cluster is configured: run it in a pod, or set KUBECONFIG');
  }
  const tracing = await startTracing({ service: 'kybernate-operator', env, log });
  const { KYBERNATE_NODE: node, KYBERNATE_METRICS_ADDRESS: address, KYBERNATE_HEALTH_ADDRESS: health } = config;
  const client = await createKybernateClient({ env, interceptors: tracing.client });
  const opened: Array<{ close(): Promise<void> }> = [client, tracing];
  const state = newOperatorState();
  const metrics = await startMetrics({ address, process: 'operator', node, log }).catch(closing(opened));
  opened.push(metrics);
  opened.push(await startHealth(health, state).catch(closing(opened)));
  const end = new AbortController();
  // In the Lease: its pod, and which process of it.
  const identity = `${hostname()}_${randomBytes(4).toString('hex')}`;
  const { KYBERNATE_OPERATOR_NAMESPACE: leaseNamespace, KYBERNATE_WATCH_NAMESPACE: namespace } = config;
  log.info({ server, leaseNamespace, identity, ...(namespace === undefined ? {} : { namespace }) }, 'operator starts');
  const run = async (): Promise<void> => {
    try {
      await runOperator({
        kubernetes,
        operations: operationsOf(client),
        log,
        signal: end.signal,
        state,
        meter: metrics.meter,
        leaseNamespace,
        identity,
        ...(namespace === undefined ? {} : { namespace }),
      });
      if (!end.signal.aborted) {
        throw new KybernateError('LockLost', 'another operator leads; this one ends, to be started again');
      }
    } finally {
      await closeAll(opened);
      log.info({}, 'operator ended');
    }
  };
  return { shutdown: () => end.abort(), done: run() };
}

async function closeAll(opened: ReadonlyArray<{ close(): Promise<void> }>): Promise<void> {
  for (const one of opened) {
    await one.close();
  }
}

/** What is open would keep a process alive that has failed. */
function closing(opened: ReadonlyArray<{ close(): Promise<void> }>): (error: unknown) => Promise<never> {
  return async (error) => {
    await closeAll(opened);
    throw error;
  };
}

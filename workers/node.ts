/*
 * The node worker, one a node: four queues over one connection (work, control, fetch, verify), the agent of the
 * runtime wrapper, and the reconciliation of what earlier workers left. It has no keys of the store: the sidecar has.
 */
import { hostname } from 'node:os';
import { join } from 'node:path';
import { Client } from '@temporalio/client';
import { Worker, type NativeConnection, type WorkerOptions } from '@temporalio/worker';
import { mapErrorsInterceptor } from '../activities/map-errors.ts';
import { observeSteps } from '../activities/observe.ts';
import {
  createFetchActivities,
  createNodeActivities,
  createNodeControlActivities,
  createVerifyActivities,
  type NodeActivityDeps,
} from '../activities/node/index.ts';
import { readDescription } from '../activities/node/preflight.ts';
import { fetchVerified, verifyDirectory } from '../activities/node/source-access.ts';
import { createKybernateClient, type KybernateClient } from '../client/index.ts';
import type { Meter } from '../core/metrics.ts';
import type { Logger, Op } from '../core/op.ts';
import { fetchQueue, nodeControlQueue, nodeQueue, verifyQueue } from '../core/task-queues.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { keepStandbys } from '../engine/runner-process.ts';
import { restoresUsing } from '../engine/restore-operation.ts';
import type { SourceAccess } from '../engine/restore-source.ts';
import { connectContainerds } from '../native/containerd/by-namespace.ts';
import { connectDocker } from '../native/docker/client.ts';
import { podDevicesOf } from '../native/kubelet/pod-resources.ts';
import { dataExtents } from '../native/libc/data-extents.ts';
import { openGpuDriver } from '../native/cuda/open.ts';
import { runExeca } from '../native/run/run-execa.ts';
import { openSidecarBackend } from '../store/backend/sidecar.ts';
import { localCatalog } from '../store/local-catalog.ts';
import { idOf } from './accounts.ts';
import { startAgent } from './agent.ts';
import {
  nodeEnv,
  nodeSettings,
  readConfig,
  redacted,
  storeVariables,
  type Environment,
  type NodeConfig,
} from './config.ts';
import { keyed, keyRingOf, signaturesOf } from './keys.ts';
import { startMetrics } from './metrics.ts';
import { collectNodeLog } from './node-log.ts';
import { gaugeNode } from './node-gauges.ts';
import { withBundles } from './process-bundle.ts';
import { startReconciling } from './reconciling.ts';
import { SHUTDOWN_GRACE_MS, connectTemporal, createLog, installRuntime, opener, temporalConfig } from './runtime.ts';
import { restoreSources } from './restore-sources.ts';
import { runWorkers, type RunningWorker } from './run-workers.ts';
import { sidecarSockets } from './sidecar-sockets.ts';
import { checkpointsDir, openToGroup } from './state-dir.ts';
import { startTracing, type Tracing } from './tracing.ts';

/** Slots per queue: captures are few, what thaws a workload never waits behind them, and no restore behind a read-back. */
const SLOTS = { work: 2, control: 20, fetch: 2, verify: 2 } as const;

export interface NodeWorkerOptions {
  readonly env?: Environment;
  readonly log?: Logger;
}

/**
 * Starts polling and returns; `done` ends when all of its workers have.
 * @throws InvalidInput a variable is wrong; Incompatible the Temporal server is away or not prepared; Internal another
 *   worker serves this node
 */
export async function startNodeWorker(options: NodeWorkerOptions = {}): Promise<RunningWorker> {
  const env = options.env ?? process.env;
  const config = readConfig(nodeEnv, env);
  const log = options.log ?? createLog(config, 'node');
  const misplaced = storeVariables(env);
  if (misplaced.length > 0) {
    log.warn({ variables: misplaced }, 'these are for `kybernate sidecar`: a node worker reaches the store through it');
  }
  const { KYBERNATE_NODE: name, KYBERNATE_METRICS_ADDRESS: address } = config;
  const tracing = await startTracing({ service: 'kybernate-node', env, node: name, log });
  const metrics = await startMetrics({ address, process: 'node', node: name, log });
  installRuntime(config, log, metrics.sdkAddress);
  const settings = await withBundles({ ...nodeSettings(config), ...(await sharing(config, log)) });
  const node: NodeDeps = {
    settings,
    containerd: connectContainerds(settings),
    docker: connectDocker(config.KYBERNATE_DOCKER_SOCKET),
    run: runExeca,
    gpu: () => openGpuDriver(settings),
    podDevices: podDevicesOf(
      config.KYBERNATE_POD_RESOURCES ?? join(config.KYBERNATE_KUBELET_DIR, 'pod-resources/kubelet.sock'),
    ),
  };
  const server = temporalConfig(env);
  const { connection, namespace } = await connectTemporal(server);
  const { http } = sidecarSockets(settings.runDir);
  const deps: NodeActivityDeps = {
    node,
    catalog: localCatalog(checkpointsDir(settings.stateDir)),
    kubeletCheckpoints: join(config.KYBERNATE_KUBELET_DIR, 'checkpoints'),
    dataExtents,
    backend: keyed(
      opener(() => openSidecarBackend(http, settings.node)),
      await keyRingOf(config),
    ),
    ...(await signaturesOf(config)),
  };
  const stop = new AbortController();
  const op: Op = { signal: stop.signal, log, progress: () => undefined };
  const temporal = { address: server.connectionOptions.address ?? 'localhost:7233', namespace };
  const { meter } = metrics;
  const nodeLog = collectNodeLog(settings.runDir, log);
  const client = await createKybernateClient({ connection, namespace, interceptors: tracing.client });
  const { catalog, backend } = deps;
  const agent = await startAgent({
    deps: node,
    log,
    temporal,
    meter,
    operations: { client, catalog, backend },
    ...sourceAccess(deps, op, client),
  });
  const everyMs = config.KYBERNATE_RECONCILE_MS;
  const asked = new Client({ connection, namespace });
  const stopReconciling = await startReconciling(node, op, { client: asked, meter, everyMs });
  gaugeNode(meter, settings);
  const dropStandbys = keepStandbys(settings);
  const workers = await createWorkers({ connection, namespace, deps, meter, tracing });
  log.info({ namespace, config: redacted(config) }, 'node worker starts');
  return runWorkers({
    workers,
    connection,
    log,
    async cleanUp() {
      stopReconciling();
      dropStandbys();
      stop.abort();
      await agent.close();
      node.containerd.close();
      nodeLog.close();
      await tracing.close();
      await metrics.close();
    },
  });
}

interface WorkerParts {
  readonly connection: NativeConnection;
  readonly namespace: string;
  readonly deps: NodeActivityDeps;
  readonly meter: Meter;
  readonly tracing: Tracing;
}

function createWorkers({ connection, namespace, deps, meter, tracing }: WorkerParts): Promise<Worker[]> {
  const name = deps.node.settings.node;
  const create = (
    taskQueue: string,
    slots: number,
    activities: NonNullable<WorkerOptions['activities']>,
  ): Promise<Worker> =>
    Worker.create({
      connection,
      namespace,
      taskQueue,
      activities,
      identity: `kybernate-node/${name}@${hostname()}`,
      maxConcurrentActivityTaskExecutions: slots,
      interceptors: { activity: [...tracing.activity, observeSteps(meter), mapErrorsInterceptor] },
      shutdownGraceTime: SHUTDOWN_GRACE_MS,
    });
  const verify = createVerifyActivities(deps);
  return Promise.all([
    create(nodeQueue(name), SLOTS.work, createNodeActivities(deps)),
    create(nodeControlQueue(name), SLOTS.control, createNodeControlActivities(deps)),
    // Operations that an earlier version started may have left read-backs in the fetch queue, for days.
    create(fetchQueue(name), SLOTS.fetch, { ...createFetchActivities(deps), ...verify }),
    create(verifyQueue(name), SLOTS.verify, { ...verify }),
  ]);
}

/** The group of the sidecar may read what is committed from now on. */
async function sharing(config: NodeConfig, log: Logger): Promise<{ readonly sidecarGroupId?: number }> {
  const { KYBERNATE_GROUP: group, KYBERNATE_STATE_DIR: stateDir } = config;
  const groupId = idOf('group', group);
  if (groupId === undefined) {
    log.warn({ group }, 'there is no such group: only a sidecar of root could read checkpoints; run `kybernate setup`');
    return {};
  }
  await openToGroup(stateDir, groupId);
  return { sidecarGroupId: groupId };
}

/** For restores that others ask for, through the agent. */
function sourceAccess(deps: NodeActivityDeps, op: Op, client: KybernateClient): SourceAccess {
  const { node, catalog, trust } = deps;
  return restoreSources({
    node: node.settings.node,
    log: op.log,
    signal: op.signal,
    client,
    pathOf: (checkpointId) => catalog.pathOf(checkpointId),
    async fetch(checkpointId, job) {
      const unused = (): boolean => restoresUsing(node.settings, checkpointId).length === 0;
      return (await fetchVerified(deps, job, checkpointId, unused)).dir;
    },
    verify: (dir, job) => verifyDirectory(deps, dir, job),
    describe: (checkpointId) => readDescription(deps, op, { checkpointId, from: 'store' }),
    signedOnly: trust?.mode === 'required',
  });
}

/*
 * The sidecar, one a node: sends checkpoints to the store and hands root the objects of the store, the only process on
 * the node that has its keys. Not trusted with content: digests are made by root at the capture and checked by root at
 * the fetch.
 *
 * Started by root it binds its sockets, opens its directories and loads its code, then becomes another user, and only
 * then opens a connection. The order matters: code, caches and checkpoints may lie where only root may enter.
 */
import { chmod, chown, mkdir, readdir, stat } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { mapErrorsInterceptor } from '../activities/map-errors.ts';
import { observeSteps } from '../activities/observe.ts';
import { createTransferActivities } from '../activities/transfer/index.ts';
import { KybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { TierInfo } from '../core/contract/tiers.ts';
import { transferQueue } from '../core/task-queues.ts';
import type { Backend } from '../store/backend/backend.ts';
import { followLimits } from '../store/backend/limits-file.ts';
import { observed } from '../store/backend/observed.ts';
import { openBackend, preloadBackend } from '../store/backend/open.ts';
import { withLimits } from '../store/backend/rate-limit.ts';
import { keepChunkThreads } from '../store/chunk-workers.ts';
import { localCatalog } from '../store/local-catalog.ts';
import type { TieredBackend } from '../store/tiers/tiered.ts';
import { idOf } from './accounts.ts';
import { readConfig, redacted, sidecarEnv, type Environment, type SidecarConfig } from './config.ts';
import { keyed, keyRingOf } from './keys.ts';
import { startMetrics } from './metrics.ts';
import { OpenDirectories, dropPrivileges, isRoot, type Account } from './privileges.ts';
import { runWorkers, type RunningWorker } from './run-workers.ts';
import {
  SHUTDOWN_GRACE_MS,
  connectTemporal,
  createLog,
  installRuntime,
  opener,
  storeSettings,
  temporalConfig,
} from './runtime.ts';
import { sidecarRequests } from './sidecar-http.ts';
import { bindPrivately, clearSocket, prepareSocketDir, sidecarSockets } from './sidecar-sockets.ts';
import { sidecarTiers, tierDirs } from './sidecar-tiers.ts';
import { checkpointsDir, openToGroup } from './state-dir.ts';
import { forgetLedgers } from './ledgers.ts';
import { prefetchByWorkflow } from './prefetch-by-workflow.ts';
import { startTracing } from './tracing.ts';
import { bindServer, transferServer } from './transfer-grpc.ts';
import { transferWork } from './transfer-work.ts';
import { Transfers } from './transfers.ts';
import { listen } from './unix-socket.ts';

const SLOTS = 4;

export interface SidecarOptions {
  readonly env?: Environment;
  readonly log?: Logger;
}

/**
 * Starts polling and listening and returns; `done` ends when both have.
 * @throws InvalidInput a variable is wrong, or the place of the sockets is not safe; Incompatible there is no user or
 *   group of that name, or Temporal is away or not prepared; Internal another sidecar serves this node
 */
export async function startSidecar(options: SidecarOptions = {}): Promise<RunningWorker> {
  const env = options.env ?? process.env;
  const config = readConfig(sidecarEnv, env);
  const log = options.log ?? createLog(config, 'sidecar');
  const account = isRoot() ? accountOf(config) : undefined;
  const dirs = sidecarDirs(config);
  const open = await openDirectories(config, dirs, account);
  const temporal = temporalConfig(env);
  const sockets = sidecarSockets(config.KYBERNATE_RUN_DIR);
  prepareSocketDir(sockets);
  const { KYBERNATE_STORE: url, KYBERNATE_NODE: node, KYBERNATE_METRICS_ADDRESS: address } = config;
  const tracing = await startTracing({ service: 'kybernate-sidecar', env, node, log });
  const metrics = await startMetrics({ address, process: 'sidecar', node, log });
  const { meter } = metrics;
  await preloadBackend(url);
  await keepChunkThreads();
  const { KYBERNATE_LIMITS_FILE: limitsFile } = config;
  const limits = limitsFile === undefined ? undefined : await followLimits(limitsFile, log);
  const store = async (): Promise<Backend> => {
    const opened = observed(await openStore(config, open), meter);
    return limits === undefined ? opened : withLimits(opened, limits);
  };
  installRuntime(config, log, metrics.sdkAddress);
  // Before the change of user: the file of a key may be root's alone.
  const ring = await keyRingOf(config);
  const tiers = await sidecarTiers({
    config,
    log,
    pathOf: (dir) => open.pathOf(dir),
    openStore: store,
  });
  const backend = keyed(tiers.backend, ring);
  // Bound now, answered when all is ready.
  const transfers = Promise.withResolvers<Transfers>();
  const server = createServer(
    sidecarRequests({ node, url, backend, tiered: backend, transfers: transfers.promise, log }),
  );
  const grpc = transferServer(transfers.promise);
  await clearSocket(sockets.http);
  await clearSocket(sockets.grpc);
  await bindPrivately(sockets.http, account, () => listen(server, sockets.http));
  await bindPrivately(sockets.grpc, account, () => bindServer(grpc, sockets.grpc));
  if (account !== undefined) {
    dropPrivileges(account);
  }
  await tiers.start();
  meter.gauge('kybernate_tier_bytes', () => tierValues(backend, ({ usedBytes }) => usedBytes));
  meter.gauge('kybernate_tier_limit_bytes', () => tierValues(backend, ({ budgetBytes }) => budgetBytes));
  const own = open.pathOf(dirs.own);
  const ledgerDir = join(own, 'uploads');
  await mkdir(ledgerDir, { recursive: true, mode: 0o700 });
  await forgetLedgers(ledgerDir);
  const catalog = localCatalog(open.pathOf(dirs.checkpoints), dirs.checkpoints);
  const { connection, namespace } = await connectTemporal(temporal);
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue: transferQueue(node),
    identity: `kybernate-sidecar/${node}@${hostname()}`,
    activities: createTransferActivities({
      catalog,
      backend,
      tiered: backend,
      ledgerDir,
      codec: config.KYBERNATE_CODEC,
    }),
    maxConcurrentActivityTaskExecutions: SLOTS,
    interceptors: { activity: [...tracing.activity, observeSteps(meter), mapErrorsInterceptor] },
    shutdownGraceTime: SHUTDOWN_GRACE_MS,
  });
  const work = transferWork({
    node,
    catalog,
    backend,
    store: keyed(opener(store), ring),
    roots: [...dirs.roots, dirs.downloads].map((dir) => ({ dir, path: open.pathOf(dir) })),
    ledgerDir,
    stagingDir: join(own, 'artifacts'),
    prefetch: prefetchByWorkflow(
      new Client({ connection, namespace, interceptors: { workflow: [...tracing.client] } }),
    ),
  });
  const running = await Transfers.open(join(own, 'transfers'), { work, log, meter });
  transfers.resolve(running);
  log.info({ namespace, config: redacted(config), user: process.getuid?.(), socket: sockets.http }, 'sidecar starts');
  return runWorkers({
    workers: [worker],
    connection,
    log,
    async cleanUp() {
      await running.close();
      grpc.forceShutdown();
      await closeServer(server);
      await tiers.close();
      limits?.stop();
      open.close();
      await tracing.close();
      await metrics.close();
    },
  });
}

async function tierValues(
  backend: () => Promise<TieredBackend>,
  valueOf: (tier: TierInfo) => number,
): Promise<Array<{ labels: { tier: string }; value: number }>> {
  return (await backend()).tiers.map((tier) => ({ labels: { tier: tier.name }, value: valueOf(tier.state()) }));
}

/** @throws Incompatible */
function accountOf({ KYBERNATE_SIDECAR_USER: user, KYBERNATE_GROUP: group }: SidecarConfig): Account {
  const userId = idOf('user', user);
  const groupId = idOf('group', group);
  if (userId === undefined || groupId === undefined) {
    const missing = userId === undefined ? `user ${user}` : `group ${group}`;
    throw new KybernateError(
      'Incompatible',
      `there is no ${missing} for the sidecar to run as: run \`kybernate setup\`, or set KYBERNATE_SIDECAR_USER and ` +
        `KYBERNATE_GROUP; a number needs no account`,
    );
  }
  if (userId === 0) {
    throw new KybernateError('Incompatible', 'the sidecar does not run as root: KYBERNATE_SIDECAR_USER names it');
  }
  return { userId, groupId };
}

interface SidecarDirs {
  /** read */
  readonly checkpoints: string;
  /** ledgers, transfers, caches */
  readonly own: string;
  /** below which callers may name directories */
  readonly roots: readonly string[];
  /** another of them, the sidecar's own */
  readonly downloads: string;
  /** of a store that is a directory */
  readonly store: string | undefined;
}

function sidecarDirs(config: SidecarConfig): SidecarDirs {
  const { KYBERNATE_STATE_DIR: stateDir, KYBERNATE_STORE: url } = config;
  const own = config.KYBERNATE_SIDECAR_DIR ?? join(stateDir, 'sidecar');
  return {
    checkpoints: checkpointsDir(stateDir),
    own,
    roots: config.KYBERNATE_SIDECAR_ROOTS,
    downloads: join(own, 'downloads'),
    store: url.startsWith('file:') ? fileURLToPath(url) : undefined,
  };
}

/** What is missing is made, by root for the account; without root it has to be there. */
async function openDirectories(
  config: SidecarConfig,
  dirs: SidecarDirs,
  account: Account | undefined,
): Promise<OpenDirectories> {
  const open = new OpenDirectories();
  if (account === undefined) {
    await mkdir(dirs.downloads, { recursive: true, mode: 0o700 });
    return open;
  }
  await openToGroup(config.KYBERNATE_STATE_DIR, account.groupId);
  open.add(dirs.checkpoints);
  for (const dir of [
    dirs.own,
    dirs.downloads,
    ...tierDirs(config),
    ...(dirs.store === undefined ? [] : [dirs.store]),
  ]) {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await giveEmpty(dir, account);
    open.add(dir);
  }
  dirs.roots.forEach((dir) => open.add(dir));
  return open;
}

/** @throws InvalidInput the directory is another user's and holds something: it is not taken from him */
async function giveEmpty(dir: string, { userId, groupId }: Account): Promise<void> {
  const { uid } = await stat(dir);
  if (uid === userId) {
    return;
  }
  const names = await readdir(dir);
  if (names.length > 0) {
    throw new KybernateError(
      'InvalidInput',
      `${dir} belongs to user ${uid} and is not empty; the sidecar runs as user ${userId}: ` +
        `\`chown -R ${userId}:${groupId} ${dir}\` gives it to him`,
    );
  }
  await chmod(dir, 0o700);
  await chown(dir, userId, groupId);
}

async function openStore(config: SidecarConfig, open: OpenDirectories): Promise<Backend> {
  const { store } = sidecarDirs(config);
  const at = store === undefined ? {} : { directory: open.pathOf(store) };
  return openBackend(config.KYBERNATE_STORE, { ...storeSettings(config), ...at });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

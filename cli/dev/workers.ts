/* The workers of the dev environment and the sidecar: the same commands that an operator would start. */
import { request } from 'node:http';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

import {
  CONTROL_QUEUE,
  fetchQueue,
  nodeControlQueue,
  nodeQueue,
  transferQueue,
  verifyQueue,
} from '../../core/task-queues.ts';
import { sidecarSockets } from '../../workers/sidecar-sockets.ts';
import { type DaemonRecord, endedAtStart, findDaemon, isAlive, logTail, startDaemon, stopDaemon } from './process.ts';
import type { TemporalServer } from './temporal.ts';
import { waitFor } from './wait.ts';

/** By their arguments, in the order of their start; they are stopped in the reverse order. */
const DAEMONS = {
  'worker-control': ['worker', 'control'],
  'worker-node': ['worker', 'node'],
  sidecar: ['sidecar'],
} as const;
export type DaemonName = keyof typeof DAEMONS;
const NAMES = Object.keys(DAEMONS) as DaemonName[];
/** Their young heaps are collected by one thread, and rarely: a fifth of the processor time of a start. The sidecar's is small. */
const NODE_OPTIONS: Readonly<Record<DaemonName, readonly string[]>> = {
  'worker-control': ['--single-threaded-gc', '--min-semi-space-size=16'],
  'worker-node': ['--single-threaded-gc', '--min-semi-space-size=16'],
  sidecar: ['--single-threaded-gc'],
};
/** Settings and keys of the store: not for the process that runs as root. */
const OF_THE_STORE = /^(KYBERNATE_STORE$|KYBERNATE_S3_|AWS_)/;
/** A worker lets running activities end; those that go on belong to a runner, which outlives it. */
const WORKER_GRACE_MS = 15_000;

function mainFile(): string {
  // main.ts in the repository, main.js in the built package
  return fileURLToPath(new URL(`../main${extname(import.meta.url)}`, import.meta.url));
}

export interface WorkerOptions {
  readonly dir: string;
  readonly node: string;
  readonly temporal: TemporalServer;
  /** the whole environment of the workers */
  readonly env: Readonly<Record<string, string>>;
  /** default: all of them */
  readonly names?: readonly DaemonName[];
}

/** True when somebody polls this queue; the server answers from memory, within milliseconds. */
async function isPolled(temporal: TemporalServer, queue: string, type: 'WORKFLOW' | 'ACTIVITY'): Promise<boolean> {
  const path = `/api/v1/namespaces/${temporal.namespace}/task-queues/${queue}`;
  try {
    const url = `${temporal.httpUrl}${path}?taskQueueType=TASK_QUEUE_TYPE_${type}`;
    const response = await fetch(url, { signal: AbortSignal.timeout(2000) });
    const body = (await response.json()) as { pollers?: unknown[] };
    return (body.pollers ?? []).length > 0;
  } catch {
    // Not answered in time: asked again by the caller.
    return false;
  }
}

/** The server remembers pollers of a sidecar that is dead; its socket tells when the next one is ready. */
function sidecarAnswers(env: WorkerOptions['env']): Promise<boolean> {
  const socketPath = sidecarSockets(env['KYBERNATE_RUN_DIR'] ?? '').http;
  return new Promise((resolve) => {
    const asked = request({ socketPath, path: '/v1/transfers', agent: false, timeout: 2000 }, (answer) => {
      answer.resume();
      resolve(answer.statusCode === 200);
    });
    asked.once('timeout', () => asked.destroy());
    asked.once('error', () => resolve(false)).end();
  });
}

/** Starts it unless it runs for the same store; it may not serve yet when this returns. */
export async function startWorker(options: WorkerOptions, name: DaemonName): Promise<DaemonRecord> {
  // The node worker knows no store, hence serves any.
  const store = name === 'worker-node' ? '' : (options.env['KYBERNATE_STORE'] ?? '');
  const live = findDaemon(options.dir, name);
  // Started for another store: its configuration is read only once.
  if (live !== undefined && live.facts['store'] !== store) {
    await stopDaemon(options.dir, name, WORKER_GRACE_MS);
  }
  return startDaemon(options.dir, {
    name,
    file: process.execPath,
    args: [...NODE_OPTIONS[name], mainFile(), ...DAEMONS[name]],
    env: name === 'worker-node' ? withoutStore(options.env) : options.env,
    facts: { store },
  });
}

function withoutStore(env: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !OF_THE_STORE.test(name)));
}

async function isServed(name: DaemonName, { temporal, node, env }: WorkerOptions): Promise<boolean> {
  const activities = (queue: string): Promise<boolean> => isPolled(temporal, queue, 'ACTIVITY');
  const served = {
    'worker-control': () => [isPolled(temporal, CONTROL_QUEUE, 'WORKFLOW'), activities(CONTROL_QUEUE)],
    'worker-node': () => [nodeQueue, nodeControlQueue, fetchQueue, verifyQueue].map((queue) => activities(queue(node))),
    sidecar: () => [activities(transferQueue(node)), sidecarAnswers(env)],
  };
  return (await Promise.all(served[name]())).every(Boolean);
}

/**
 * Starts the workers that do not run, and waits until every one of their queues is polled.
 * @throws Internal with the end of the log of a worker that ended
 */
export async function startWorkers(options: WorkerOptions): Promise<void> {
  const { names = NAMES } = options;
  const records = await Promise.all(names.map((name) => startWorker(options, name)));
  await waitFor(
    'poller on every task queue',
    60_000,
    async () => {
      const dead = records.find((record) => !isAlive(record));
      if (dead !== undefined) {
        throw endedAtStart(dead);
      }
      return (await Promise.all(names.map((name) => isServed(name, options)))).every(Boolean);
    },
    () => records.map((record) => `\n${record.name}:\n${logTail(record.logFile, 8)}`).join(''),
  );
}

/** Stops them in the reverse order of their start. */
export async function stopWorkers(dir: string): Promise<void> {
  for (const name of NAMES.toReversed()) {
    await stopDaemon(dir, name, WORKER_GRACE_MS);
  }
}

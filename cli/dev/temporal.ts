/* A private Temporal server: the CLI's dev server with its database in a file, on loopback ports. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { messageOf } from '../../core/errors.ts';
import { SEARCH_ATTRIBUTES } from '../../core/search-attributes.ts';
import { type Env, requireProgram } from '../setup/programs.ts';
import { type DaemonRecord, endedAtStart, findDaemon, isAlive, logTail, startDaemon, stopDaemon } from './process.ts';
import { answers, freePort, waitFor } from './wait.ts';

const PREFERRED = { port: 7233, uiPort: 8233 } as const;
const LOOPBACK = '127.0.0.1';
const START_TRIES = 3;

export interface TemporalOptions {
  readonly dir: string;
  readonly env: Env;
  /** default `kybernate` */
  readonly namespace?: string;
  /** default false: the server alone */
  readonly ui?: boolean;
  /** its database in memory: quicker, and gone with the server; default false: a file in `dir` */
  readonly inMemory?: boolean;
  /** take the well-known ports 7233 and 8233 when they are free; default false: any free ones */
  readonly wellKnownPorts?: boolean;
}

export interface TemporalServer {
  /** `127.0.0.1:<port>` */
  readonly address: string;
  readonly namespace: string;
  /** `http://127.0.0.1:<port>`, absent without the Web UI */
  readonly uiUrl?: string;
  /** the server's own HTTP API */
  readonly httpUrl: string;
}

function serverOf(record: DaemonRecord): TemporalServer {
  const { address = '', namespace = '', uiUrl, httpUrl = '' } = record.facts;
  return { address, namespace, httpUrl, ...(uiUrl === undefined ? {} : { uiUrl }) };
}

interface Ports {
  readonly port: number;
  readonly http: number;
  readonly metrics: number;
  readonly ui?: number;
}

async function choosePorts(options: TemporalOptions): Promise<Ports> {
  const known = options.wellKnownPorts === true;
  const port = await freePort(known ? PREFERRED.port : undefined);
  const ui = options.ui === true ? { ui: await freePort(known ? PREFERRED.uiPort : undefined) } : {};
  return { port, http: await freePort(), metrics: await freePort(), ...ui };
}

/** Arguments of `temporal`; exported for its test. @param dir of the database; in memory when left out */
export function serverArgs(dir: string | undefined, namespace: string, ports: Ports): string[] {
  const flags = {
    ip: LOOPBACK,
    port: ports.port,
    'http-port': ports.http,
    'metrics-port': ports.metrics,
    namespace,
    'log-level': 'warn',
    // WAL without a flush of every commit: a crash of the machine may lose the last ones, a crash of the server none.
    ...(dir === undefined ? {} : { 'db-filename': join(dir, 'temporal.db'), 'sqlite-pragma': 'synchronous=1' }),
    ...(ports.ui === undefined ? {} : { 'ui-ip': LOOPBACK, 'ui-port': ports.ui }),
  };
  const dynamic = [
    'frontend.WorkerHeartbeatsEnabled=true',
    'frontend.ListWorkersEnabled=true',
    'matching.useNewMatcher=true',
    // One shard has 20 reads a second by default, so that every step of a lone workflow waits 50 ms for its turn.
    ...['transfer', 'timer', 'visibility'].map((queue) => `history.${queue}ProcessorMaxPollRPS=1000`),
  ];
  return [
    'server',
    'start-dev',
    `--headless=${ports.ui === undefined}`,
    ...Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]),
    ...Object.values(SEARCH_ATTRIBUTES).flatMap((name) => ['--search-attribute', `${name}=Keyword`]),
    ...dynamic.flatMap((setting) => ['--dynamic-config-value', setting]),
  ];
}

/** The running server of this directory, undefined when there is none. */
export function findTemporal(dir: string): TemporalServer | undefined {
  const record = findDaemon(dir, 'temporal');
  return record === undefined ? undefined : serverOf(record);
}

/**
 * Starts the server unless the one of this directory runs, and waits until workflows can be listed, through the Web
 * UI too where it is on (its page is there before its API is).
 * @throws Internal with the end of the server's log
 */
export async function startTemporal(options: TemporalOptions): Promise<TemporalServer> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await startOnFreePorts(options);
    } catch (error) {
      // Somebody else was faster on a port that was free.
      if (tries === START_TRIES || !/address already in use/.test(messageOf(error))) {
        throw error;
      }
    }
  }
}

async function startOnFreePorts(options: TemporalOptions): Promise<TemporalServer> {
  const { dir, env, namespace = 'kybernate' } = options;
  mkdirSync(dir, { recursive: true });
  const ports = await choosePorts(options);
  const record = await startDaemon(dir, {
    name: 'temporal',
    file: requireProgram('temporal', env),
    args: serverArgs(options.inMemory === true ? undefined : dir, namespace, ports),
    // Its own settings must not point the server's CLI to another server or profile.
    env: { PATH: env['PATH'], HOME: dir, GOGC: env['GOGC'] },
    facts: {
      address: `${LOOPBACK}:${ports.port}`,
      namespace,
      httpUrl: `http://${LOOPBACK}:${ports.http}`,
      ...(ports.ui === undefined ? {} : { uiUrl: `http://${LOOPBACK}:${ports.ui}` }),
    },
  });
  const server = serverOf(record);
  const ready = [server.httpUrl, ...(server.uiUrl === undefined ? [] : [server.uiUrl])];
  await waitFor(
    `answer from Temporal on ${server.address}`,
    60_000,
    async () => {
      if (!isAlive(record)) {
        throw endedAtStart(record);
      }
      const up = await Promise.all(ready.map((url) => answers(`${url}/api/v1/namespaces/${namespace}/workflows`)));
      return up.every(Boolean);
    },
    () => `\n${logTail(record.logFile)}`,
  );
  return server;
}

/** Stops the server; its database stays. */
export async function stopTemporal(dir: string): Promise<void> {
  await stopDaemon(dir, 'temporal');
}

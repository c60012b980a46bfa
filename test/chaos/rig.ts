/*
 * A node with everything around it, for one run: Temporal, containerd, an S3 server behind a proxy that can be told to
 * fail, control worker, node worker and sidecar, a small disk for checkpoints, and a fake GPU. What dies is started
 * again a moment later, as a service manager does.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import type { Containerd as ContainerdTools } from '../../cli/dev/containerd-client.ts';
import { startContainerd } from '../../cli/dev/containerd.ts';
import { devVariables, withoutSettings } from '../../cli/dev/environment.ts';
import { findDaemon, isAlive, startDaemon } from '../../cli/dev/process.ts';
import type { S3Server } from '../../cli/dev/s3.ts';
import { serverArgs, type TemporalServer } from '../../cli/dev/temporal.ts';
import { freePort, waitFor } from '../../cli/dev/wait.ts';
import { startWorker, startWorkers, type WorkerOptions } from '../../cli/dev/workers.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { createKybernateClient, type KybernateClient } from '../../client/index.ts';
import { messageOf } from '../../core/errors.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { openS3Backend } from '../../store/backend/s3.ts';
import { openTestServers, type TestServers } from '../harness/dev-servers.ts';
import { FakeGpu } from '../harness/fake-gpu.ts';
import { BUSYBOX_IMAGE, importTestImages, PYTHON_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import { S3Proxy } from '../harness/s3-proxy.ts';

export const SERVICES = ['temporal', 'containerd', 'worker-control', 'worker-node', 'sidecar'] as const;
export type ServiceName = (typeof SERVICES)[number];

const DISK_MIB = 1024;
const MIN_FREE_BYTES = 8 * 1024 ** 2;
const LOOK_MS = 100;
/** A service that cannot start without another one is tried again and again. */
const LEAST_DELAY_MS = 300;
const READY_MS = 90_000;
const NAMESPACE = 'kybernate';

export class Rig {
  readonly dir: string;
  readonly runDir: string;
  readonly stateDir: string;
  readonly node: string;
  /** of containerd; runc's root is shared by all containerds of a machine, this name keeps them apart */
  readonly namespace: string;
  readonly fake: FakeGpu;
  readonly proxy: S3Proxy;
  readonly s3: S3Server;
  readonly tools: ContainerdTools;
  readonly containerd: Containerd;
  readonly temporal: TemporalServer;
  readonly temporalClient: Client;
  readonly client: KybernateClient;
  /** how long the next start of a service that died waits, in ms */
  readonly delays = new Map<ServiceName, number>();
  /** ids of operations that had a directory on the node */
  readonly operationsSeen = new Set<string>();
  readonly #servers: TestServers;
  readonly #connection: Connection;
  readonly #starts: Record<ServiceName, () => Promise<unknown>>;
  readonly #workers: WorkerOptions;
  readonly #starting = new Set<ServiceName>();
  #supervisor: NodeJS.Timeout | undefined;

  private constructor(servers: TestServers, parts: Parts) {
    this.#servers = servers;
    this.dir = servers.dir;
    this.runDir = servers.runDir;
    this.stateDir = join(servers.dir, 'node');
    this.node = `node-${servers.dir.slice(-6).toLowerCase()}`;
    this.namespace = parts.namespace;
    this.fake = parts.fake;
    this.proxy = parts.proxy;
    this.s3 = parts.s3;
    this.tools = parts.tools;
    this.temporal = parts.temporal;
    this.#connection = parts.connection;
    this.temporalClient = new Client({ connection: parts.connection, namespace: NAMESPACE });
    this.client = parts.client;
    this.containerd = connectContainerd(parts.tools.address);
    const paths = { dir: this.dir, runDir: this.runDir, stateDir: this.stateDir, storeDir: join(this.dir, 'store') };
    const { tools: containerd, temporal, s3, proxy, fake } = parts;
    const env = {
      ...withoutSettings(process.env),
      ...devVariables(paths, this.node, { containerd, temporal, s3 }, process.env),
      KYBERNATE_STORE: `s3://${s3.bucket}/${this.node}`,
      KYBERNATE_S3_ENDPOINT: proxy.endpoint,
      KYBERNATE_LOG_LEVEL: 'info',
      // The disk is small, and is to become full.
      KYBERNATE_MIN_FREE_BYTES: String(MIN_FREE_BYTES),
      ...fake.environment,
      PATH: containerd.path,
    };
    this.#workers = { dir: this.dir, node: this.node, temporal, env };
    this.#starts = {
      temporal: parts.startTemporal,
      containerd: () => startContainerd({ dir: this.dir, env: process.env, runDir: this.runDir }),
      'worker-control': () => startWorker(this.#workers, 'worker-control'),
      'worker-node': () => startWorker(this.#workers, 'worker-node'),
      sidecar: () => startWorker(this.#workers, 'sidecar'),
    };
  }

  static async open(): Promise<Rig> {
    const servers = await openTestServers();
    try {
      const { dir } = servers;
      const { temporal, start } = await fixedTemporal(dir);
      const [tools, s3] = await Promise.all([servers.containerd(), servers.s3(), start()]);
      const namespace = basename(dir).toLowerCase();
      await importTestImages(tools, namespace, [BUSYBOX_IMAGE, PYTHON_IMAGE, REDIS_IMAGE]);
      const connection = await Connection.connect({ address: temporal.address });
      const client = await createKybernateClient({ connection, namespace: NAMESPACE });
      const proxy = await S3Proxy.start(Number(new URL(s3.endpoint).port));
      const fake = FakeGpu.open();
      process.env['KYBERNATE_FAKE_GPU'] = fake.dir;
      const rig = new Rig(servers, {
        namespace,
        fake,
        proxy,
        s3,
        tools,
        temporal,
        connection,
        client,
        startTemporal: start,
      });
      for (const path of [rig.runDir, rig.stateDir]) {
        mkdirSync(path, { recursive: true, mode: 0o700 });
      }
      const mounted = await runExeca('mount', ['-t', 'tmpfs', '-o', `size=${DISK_MIB}m`, 'tmpfs', rig.stateDir]);
      if (mounted.exitCode !== 0) {
        throw new Error(`mount of ${rig.stateDir}: ${mounted.stderr}`);
      }
      await rig.ready();
      rig.#supervisor = setInterval(() => rig.#supervise(), LOOK_MS);
      return rig;
    } catch (error) {
      await servers.close();
      throw error;
    }
  }

  /** The store as its users see it, past the proxy. */
  openStore(): Backend {
    const { bucket, endpoint, accessKeyId, secretAccessKey } = this.s3;
    return openS3Backend(bucket, this.node, { endpoint, credentials: { accessKeyId, secretAccessKey } });
  }

  pidOf(name: ServiceName): number | undefined {
    return findDaemon(this.dir, name)?.pid;
  }

  get hasOperations(): boolean {
    const dir = join(this.runDir, 'operations');
    return existsSync(dir) && readdirSync(dir).length > 0;
  }

  /** Every service runs, and its queues are polled. */
  async ready(): Promise<void> {
    const deadline = performance.now() + READY_MS;
    await waitFor('start of the services', READY_MS, async () => {
      if (this.#starting.size > 0 || SERVICES.some((name) => this.pidOf(name) === undefined)) {
        if (this.#supervisor !== undefined) {
          return false;
        }
        await Promise.all(SERVICES.map((name) => this.#starts[name]()));
      }
      try {
        await startWorkers(this.#workers);
        return true;
      } catch (error) {
        if (performance.now() > deadline) {
          throw error;
        }
        return false;
      }
    });
  }

  /** For everything that has died: its start, after its delay. */
  #supervise(): void {
    for (const name of SERVICES.filter((service) => !this.#starting.has(service))) {
      if (findDaemon(this.dir, name) !== undefined) {
        continue;
      }
      this.#starting.add(name);
      const delayMs = Math.max(LEAST_DELAY_MS, this.delays.get(name) ?? 0);
      this.delays.delete(name);
      setTimeout(() => {
        if (this.#supervisor === undefined) {
          return;
        }
        const start = this.#starts[name];
        start()
          // Tried again at the next look.
          .catch((error: unknown) => console.error(`chaos: ${name} did not start: ${messageOf(error)}`))
          .finally(() => this.#starting.delete(name));
      }, delayMs);
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#supervisor);
    this.#supervisor = undefined;
    await waitFor('end of starts', 60_000, () => this.#starting.size === 0).catch(() => undefined);
    this.containerd.close();
    await this.#connection.close();
    await this.#servers.close();
    await this.proxy.close();
    this.fake.close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

interface Parts {
  readonly namespace: string;
  readonly fake: FakeGpu;
  readonly proxy: S3Proxy;
  readonly s3: S3Server;
  readonly tools: ContainerdTools;
  readonly temporal: TemporalServer;
  readonly connection: Connection;
  readonly client: KybernateClient;
  readonly startTemporal: () => Promise<unknown>;
}

/** A Temporal server that comes back where it was. */
async function fixedTemporal(dir: string): Promise<{ temporal: TemporalServer; start: () => Promise<unknown> }> {
  const ports = { port: await freePort(), http: await freePort(), metrics: await freePort() };
  const temporal = {
    address: `127.0.0.1:${ports.port}`,
    namespace: NAMESPACE,
    httpUrl: `http://127.0.0.1:${ports.http}`,
  };
  const start = async (): Promise<void> => {
    const record = await startDaemon(dir, {
      name: 'temporal',
      file: requireProgram('temporal', process.env),
      args: serverArgs(dir, NAMESPACE, ports),
      env: { PATH: process.env['PATH'], HOME: dir, GOGC: process.env['GOGC'] },
    });
    const url = `${temporal.httpUrl}/api/v1/namespaces/${NAMESPACE}/workflows`;
    await waitFor('answer from Temporal', 60_000, async () => {
      if (!isAlive(record)) {
        throw new Error('Temporal ended at its start');
      }
      const answer = await fetch(url, { signal: AbortSignal.timeout(1000) }).catch(() => undefined);
      await answer?.body?.cancel();
      return answer?.status === 200;
    });
  };
  return { temporal, start };
}

/*
 * A node worker and a sidecar over the servers of the lane, with a state directory of their own, and what a test does to
 * containers. Workers are real processes: a test may kill them. The control worker and the store are the lane's, and
 * serve its files one after the other, unless a test has settings of its own for them.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { devVariables, withoutSettings } from '../../cli/dev/environment.ts';
import { findDaemon, stopDaemon } from '../../cli/dev/process.ts';
import { type DaemonName, startWorkers, stopWorkers } from '../../cli/dev/workers.ts';
import { createKybernateClient, type KybernateClient, type OperationHandle } from '../../client/index.ts';
import type { CheckpointRequest, CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { RestoreRequest, RestoreResult } from '../../core/contract/restore.ts';
import { operationPids } from '../../engine/operation-cgroup.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { type ProcessInfo, readProcess } from '../../native/proc/tree.ts';
import { readInside, removeContainer } from './containers.ts';
import { fromLane } from './provided.ts';

export const BUSYBOX = 'docker.io/kybernate/busybox:1';
export const REDIS = 'docker.io/kybernate/redis:1';
export const PYTHON = 'docker.io/kybernate/python:1';

/** Settings that a control worker reads, too: with one of them a stack has its own. */
const OF_CONTROL = /^(KYBERNATE_(STORE|S3|ENCRYPTION|SIGN|TRUSTED|LOG|METRICS)|AWS_|OTEL_)/;

export interface StackOptions {
  /** `s3` uses the lane's S3 server with a prefix of its own, `dir` a directory of its own; default: the lane's directory */
  readonly store?: 'dir' | 's3';
  readonly env?: Readonly<Record<string, string>>;
  /** made by the test: a small tmpfs, for example */
  readonly stateDir?: string;
  /** `false`: a node without a store; default `true` */
  readonly withSidecar?: boolean;
}

export class Stack {
  readonly dir: string;
  readonly node: string;
  stateDir: string;
  readonly storeDir: string;
  readonly runDir: string;
  readonly namespace: string;
  readonly client: KybernateClient;
  readonly variables: Record<string, string>;
  withSidecar: boolean;
  readonly #ownControl: boolean;
  readonly #containerd: Containerd;
  readonly #containers: string[] = [];

  private constructor(dir: string, node: string, client: KybernateClient, options: StackOptions) {
    const { address, runDir, namespace, dir: containerdDir } = fromLane('containerd');
    this.#containerd = connectContainerd(address);
    this.dir = dir;
    this.node = node;
    this.client = client;
    this.namespace = namespace;
    this.runDir = runDir;
    this.stateDir = options.stateDir ?? join(dir, 'node');
    this.withSidecar = options.withSidecar ?? true;
    this.#ownControl =
      options.store !== undefined || Object.keys(options.env ?? {}).some((name) => OF_CONTROL.test(name));
    this.storeDir = join(this.#ownControl ? dir : containerdDir, 'store');
    const paths = { dir, runDir, stateDir: this.stateDir, storeDir: this.storeDir };
    const servers = {
      containerd: openContainerd(containerdDir, process.env),
      temporal: fromLane('temporal'),
      ...(options.store === 's3' ? { s3: fromLane('s3') } : {}),
    };
    const variables = devVariables(paths, node, servers, process.env);
    const store = options.store === 's3' ? `s3://${fromLane('s3').bucket}/${node}` : `file://${this.storeDir}`;
    this.variables = {
      ...variables,
      KYBERNATE_STORE: store,
      KYBERNATE_LOG_LEVEL: 'warn',
      KYBERNATE_MIN_FREE_BYTES: '0',
      // Hooks of the machine are no part of a test.
      KYBERNATE_HOOKS_DIR: join(dir, 'no-hooks'),
      ...options.env,
    };
  }

  static async open(options: StackOptions = {}): Promise<Stack> {
    const dir = mkdtempSync(join(fromLane('containerd').dir, 's-'));
    const temporal = fromLane('temporal');
    const client = await createKybernateClient({ address: temporal.address, namespace: temporal.namespace });
    const stack = new Stack(dir, `node-${dir.slice(-6).toLowerCase()}`, client, options);
    [stack.runDir, stack.stateDir, stack.storeDir].forEach((path) => mkdirSync(path, { recursive: true, mode: 0o700 }));
    try {
      await stack.startWorkers();
      return stack;
    } catch (error) {
      // A worker that is left serves the socket of the lane, and no other file would have one.
      await stack.close();
      throw error;
    }
  }

  async startWorkers(): Promise<void> {
    const env = { ...withoutSettings(process.env), ...this.variables, PATH: fromLane('containerd').path };
    const { dir, node } = this;
    const lane = fromLane('containerd').dir;
    const start = (of: string, names: readonly DaemonName[]): Promise<void> =>
      startWorkers({ dir: of, node, temporal: fromLane('temporal'), env, names });
    if (this.#ownControl) {
      // Two control workers would take turns.
      await stopWorkers(lane);
    }
    await Promise.all([
      start(this.#ownControl ? dir : lane, ['worker-control']),
      start(dir, this.withSidecar ? ['worker-node', 'sidecar'] : ['worker-node']),
    ]);
  }

  /** Another disk under the same node: workers that are started from now on know no checkpoint of before. */
  async changeStateDir(stateDir: string): Promise<void> {
    await stopWorkers(this.dir);
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    this.stateDir = stateDir;
    this.variables['KYBERNATE_STATE_DIR'] = stateDir;
    await this.startWorkers();
  }

  pidOf(name: 'worker-node' | 'sidecar'): number {
    return findDaemon(this.dir, name)?.pid ?? 0;
  }

  /** SIGKILL at once, as a node's OOM killer would; resolves at its end: before it, no other is started. */
  async kill(name: 'worker-node' | 'sidecar'): Promise<void> {
    const record = findDaemon(this.dir, name);
    if (record !== undefined) {
      process.kill(record.pid, 'SIGKILL');
      await until(`the end of ${name}`, () => findDaemon(this.dir, name) === undefined);
    }
  }

  async killNodeWorker(): Promise<void> {
    await this.kill('worker-node');
  }

  async stopNodeWorker(): Promise<void> {
    await stopDaemon(this.dir, 'worker-node');
  }

  async stopSidecar(): Promise<void> {
    await stopDaemon(this.dir, 'sidecar');
  }

  async ctr(...args: string[]): Promise<string> {
    return openContainerd(fromLane('containerd').dir, process.env).ctrOk(['-n', this.namespace, ...args]);
  }

  /** `ctr run -d`; removed at the end. */
  async runContainer(
    id: string,
    image: string,
    command: readonly string[],
    flags: readonly string[] = [],
  ): Promise<string> {
    this.#containers.push(id);
    await this.ctr('run', '-d', '--null-io', ...flags, image, id, ...command);
    return id;
  }

  async exec(id: string, ...command: string[]): Promise<string> {
    return this.ctr('tasks', 'exec', '--exec-id', `x${Math.random().toString(16).slice(2)}`, id, ...command);
  }

  /** Content of a file as a process of the container sees it. */
  async read(id: string, path: string): Promise<string> {
    return readInside(this.#containerd, this.namespace, id, path);
  }

  async readJson<T>(id: string, path: string): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return JSON.parse(await this.read(id, path)) as T;
      } catch (error) {
        if (attempt > 1500) {
          throw error;
        }
        await sleep(20);
      }
    }
  }

  async removeContainer(id: string): Promise<void> {
    await removeContainer(this.#containerd, this.namespace, id);
  }

  /** All that were made so far: who leaves them running pays for them to the end of the file. */
  async removeContainers(): Promise<void> {
    await Promise.all(this.#containers.splice(0).map((id) => this.removeContainer(id)));
  }

  /** Directories of operations in the run directory, newest last. */
  operations(): string[] {
    const dir = join(this.runDir, 'operations');
    return existsSync(dir) ? readdirSync(dir).map((name) => join(dir, name)) : [];
  }

  /** Live processes of that name in this stack's operations: other test runs on the machine dump, too. */
  dumping(command: string): ProcessInfo[] {
    return this.operations()
      .flatMap((dir) => operationPids(basename(dir)))
      .map((pid) => readProcess(pid))
      .filter((process) => process?.command === command && process.state !== 'Z')
      .filter((process) => process !== undefined);
  }

  freezerOf(id: string): string {
    return readFileSync(`/sys/fs/cgroup/freezer/${this.namespace}/${id}/freezer.state`, 'utf8').trim();
  }

  /** What CRIU has written of the memory so far. */
  pageBytes(checkpointId: string): number {
    const dir = join(this.stateDir, 'checkpoints', `checkpoint-${checkpointId}`, 'criu');
    try {
      const pages = readdirSync(dir).filter((name) => name.startsWith('pages-'));
      return pages.reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
    } catch {
      return 0;
    }
  }

  /** Removes the node's copy alone, as `kybernate rm --local` does. */
  removeLocal(checkpointId: string): void {
    rmSync(join(this.stateDir, 'checkpoints', `checkpoint-${checkpointId}`), { recursive: true });
  }

  checkpoint(container: string, request: Partial<CheckpointRequest> = {}): Promise<CheckpointResult> {
    return this.startCheckpoint(container, request).then((handle) => handle.result());
  }

  async startCheckpoint(
    container: string,
    request: Partial<CheckpointRequest> = {},
  ): Promise<OperationHandle<CheckpointResult> & { readonly checkpointId: string }> {
    const checkpointId = request.checkpointId ?? `ck-${Math.random().toString(16).slice(2)}`;
    const handle = await this.client.checkpoint({
      node: this.node,
      container: { id: container, namespace: this.namespace },
      durability: 'local',
      ...request,
      checkpointId,
    });
    return { ...handle, checkpointId };
  }

  async restore(checkpointId: string, id: string, request: Partial<RestoreRequest> = {}): Promise<RestoreResult> {
    this.#containers.push(id);
    const handle = await this.client.restore({
      node: this.node,
      checkpointId,
      container: { id, namespace: this.namespace },
      ...request,
    });
    return handle.result();
  }

  /** Ids of committed checkpoints on the node. */
  localCheckpoints(): string[] {
    const dir = join(this.stateDir, 'checkpoints');
    const names = existsSync(dir) ? readdirSync(dir) : [];
    return names.filter((name) => name.startsWith('checkpoint-') && !name.endsWith('.json'));
  }

  async close(): Promise<void> {
    try {
      await this.removeContainers();
    } finally {
      // Workers that go on would be in the way of every file after this one.
      this.#containerd.close();
      await stopWorkers(this.dir);
      await this.client.close();
      rmSync(this.dir, { recursive: true, force: true });
    }
  }
}

/** Waits for a condition that polls; a test never sleeps for a fixed time to await something. */
export async function until(
  what: string,
  condition: () => Promise<boolean> | boolean,
  timeoutMs = 20_000,
  everyMs = 20,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) {
      throw new Error(`timed out waiting for ${what}`);
    }
    await sleep(everyMs);
  }
}

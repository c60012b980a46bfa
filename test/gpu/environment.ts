/*
 * What the cases of test/gpu run in: the dev environment of `kybernate up` on this machine, the client, and containers
 * whose files are read through their processes' root, so that nothing is started in a container that is looked at.
 */
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { down } from '../../cli/dev/down.ts';
import { devDir } from '../../cli/dev/paths.ts';
import { findDaemon, logTail } from '../../cli/dev/process.ts';
import { type DevEnvironment, up } from '../../cli/dev/up.ts';
import { createKybernateClient, type KybernateClient, type OperationHandle } from '../../client/index.ts';
import type { CheckpointRequest, CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { RehearseRequest, RehearseResult } from '../../core/contract/gpu.ts';
import type { RestoreRequest, RestoreResult } from '../../core/contract/restore.ts';
import { type JournalEntry, readJournal } from '../../engine/journal.ts';
import { readJson, type OperationPlan } from '../../engine/operation.ts';
import type { RestoreRecord } from '../../engine/restore-operation.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { cgroupPids, freezerCgroup } from '../../native/proc/cgroup.ts';

export const BUSYBOX = 'docker.io/kybernate/busybox:1';
export const PYTHON = 'docker.io/kybernate/python:1';
export const NAMESPACE = 'default';

type Env = Readonly<Record<string, string | undefined>>;

export class Environment {
  readonly node: string;
  readonly client: KybernateClient;
  readonly stateDir: string;
  readonly runDir: string;
  /** socket at which the node worker asks kubelet; nobody listens there before a case does */
  readonly podResources: string;
  readonly #env: Env;
  #settings: Env = {};
  readonly #dev: DevEnvironment;
  readonly #containerd: Containerd;
  readonly #containers = new Set<string>();
  #serial = 0;

  private constructor(env: Env, dev: DevEnvironment, client: KybernateClient) {
    this.#env = env;
    this.#dev = dev;
    this.client = client;
    this.node = dev.node;
    this.stateDir = dev.paths.stateDir;
    this.runDir = dev.paths.runDir;
    this.podResources = String(env['KYBERNATE_POD_RESOURCES']);
    this.#containerd = connectContainerd(dev.containerd.address);
  }

  /** @param imageDir archives `busybox.tar` and `python.tar`, made by tools/gpu-bundle.ts */
  static async open(base: Env, imageDir: string, note: (text: string) => void): Promise<Environment> {
    const env: Env = { ...base, KYBERNATE_POD_RESOURCES: join(devDir(base), 'kubelet.sock') };
    const dev = await up({ env, node: env['KYBERNATE_NODE'] ?? 'gpu', images: [], namespace: NAMESPACE, note });
    for (const archive of ['busybox.tar', 'python.tar']) {
      await dev.containerd.ctrOk(['-n', NAMESPACE, 'images', 'import', '--local', join(imageDir, archive)]);
    }
    const { address, namespace } = dev.temporal;
    return new Environment(env, dev, await createKybernateClient({ address, namespace }));
  }

  /** Settings by which the CLI and the workers find this environment. */
  get variables(): Readonly<Record<string, string>> {
    return this.#dev.variables;
  }

  ctr(...args: string[]): Promise<string> {
    return this.#dev.containerd.ctrOk(['-n', NAMESPACE, ...args]);
  }

  /** A container id that was not used before; the container is removed after the case. */
  name(prefix: string): string {
    this.#serial += 1;
    const id = `${prefix}-${this.#serial}`;
    this.#containers.add(id);
    return id;
  }

  async run(prefix: string, image: string, command: readonly string[], flags: readonly string[] = []): Promise<string> {
    const id = this.name(prefix);
    await this.ctr('run', '-d', '--null-io', ...flags, image, id, ...command);
    return id;
  }

  /** Host pid of the container's first process. */
  async initPid(id: string): Promise<number> {
    const task = await this.#containerd.getTask(NAMESPACE, id);
    if (task === undefined) {
      throw new Error(`container ${id} has no task`);
    }
    return task.pid;
  }

  /** Host pids of all processes of the container. */
  async pids(id: string): Promise<number[]> {
    const cgroup = freezerCgroup(await this.initPid(id));
    return cgroup === undefined ? [] : cgroupPids(cgroup.path);
  }

  async status(id: string): Promise<string | undefined> {
    return (await this.#containerd.getTask(NAMESPACE, id))?.status;
  }

  /** Path on the host of a file in the container. */
  async path(id: string, file: string): Promise<string> {
    return `/proc/${await this.initPid(id)}/root${file}`;
  }

  async read(id: string, file: string): Promise<string> {
    return readFileSync(await this.path(id, file), 'utf8');
  }

  /** Waits until the container has written the file. */
  async readJson<T>(id: string, file = '/tmp/state.json', timeoutMs = 60_000): Promise<T> {
    const text = await until(`${file} of ${id}`, timeoutMs, async () => {
      assert((await this.status(id)) !== 'stopped', `container ${id} runs`);
      // Not written yet.
      return this.read(id, file).catch(() => undefined);
    });
    return JSON.parse(text) as T;
  }

  async remove(id: string): Promise<void> {
    const quiet = (...args: string[]): Promise<unknown> => this.#dev.containerd.ctr(['-n', NAMESPACE, ...args], 30_000);
    await quiet('tasks', 'kill', '-s', 'SIGKILL', '-a', id);
    await quiet('tasks', 'rm', '-f', id);
    await quiet('containers', 'rm', id);
    await quiet('snapshots', 'rm', id);
    this.#containers.delete(id);
  }

  async removeAll(): Promise<void> {
    for (const id of this.#containers) {
      await this.remove(id);
    }
    for (const name of this.localCheckpoints()) {
      rmSync(join(this.stateDir, 'checkpoints', name), { recursive: true, force: true });
    }
  }

  async startCheckpoint(
    id: string,
    request: Partial<CheckpointRequest> = {},
  ): Promise<OperationHandle<CheckpointResult> & { readonly checkpointId: string }> {
    const checkpointId = request.checkpointId ?? `ck-${Math.random().toString(16).slice(2)}`;
    const handle = await this.client.checkpoint({
      node: this.node,
      container: { id, namespace: NAMESPACE },
      durability: 'local',
      ...request,
      checkpointId,
    });
    return { ...handle, checkpointId };
  }

  async checkpoint(id: string, request: Partial<CheckpointRequest> = {}): Promise<CheckpointResult> {
    return (await this.startCheckpoint(id, request)).result();
  }

  async startRestore(
    checkpointId: string,
    prefix: string,
    request: Partial<RestoreRequest> = {},
  ): Promise<OperationHandle<RestoreResult> & { readonly id: string }> {
    const id = this.name(prefix);
    const handle = await this.client.restore({
      node: this.node,
      checkpointId,
      container: { id, namespace: NAMESPACE },
      ...request,
    });
    return { ...handle, id };
  }

  async restore(
    checkpointId: string,
    prefix: string,
    request: Partial<RestoreRequest> = {},
  ): Promise<RestoreResult & { readonly id: string }> {
    const handle = await this.startRestore(checkpointId, prefix, request);
    return { ...(await handle.result()), id: handle.id };
  }

  async rehearse(id: string, request: Partial<RehearseRequest> = {}): Promise<RehearseResult> {
    const container = { id, namespace: NAMESPACE };
    return (await this.client.rehearse({ node: this.node, container, ...request })).result();
  }

  /** An empty directory, removed with the environment. */
  scratchDir(name: string): string {
    const dir = join(this.#dev.paths.dir, 'scratch', name);
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(dir, { recursive: true });
    return dir;
  }

  /** Directory of the operation that works on this container, once it has planned. */
  operationOf(id: string): string | undefined {
    const dir = join(this.runDir, 'operations');
    const names = existsSync(dir) ? readdirSync(dir) : [];
    return names
      .map((name) => join(dir, name))
      .find((path) => (readJson(join(path, 'plan.json')) as OperationPlan | undefined)?.container.id === id);
  }

  /** What the node keeps of the restores into this container that are under way. */
  restoresOf(id: string): readonly RestoreRecord[] {
    const dir = join(this.runDir, 'operations');
    return (existsSync(dir) ? readdirSync(dir) : [])
      .map((name) => readJson(join(dir, name, 'restore.json')) as RestoreRecord | undefined)
      .filter((record) => record !== undefined)
      .filter((record) => record.container.id === id);
  }

  /** What the runner has written down so far. */
  journalOf(id: string): readonly JournalEntry[] {
    const dir = this.operationOf(id);
    return dir === undefined ? [] : readJournal(join(dir, 'journal.jsonl'));
  }

  /** SIGKILL at once, as a node's OOM killer would; resolves at its end: before it, no other is started. */
  async killNodeWorker(): Promise<void> {
    const record = findDaemon(this.#dev.paths.dir, 'worker-node');
    if (record === undefined) {
      throw new Error('there is no node worker to kill');
    }
    process.kill(record.pid, 'SIGKILL');
    await until('the end of the worker', 30_000, () => findDaemon(this.#dev.paths.dir, 'worker-node') === undefined);
  }

  /** Starts what has ended. */
  async startWorkers(): Promise<void> {
    await up({ env: { ...this.#env, ...this.#settings }, node: this.node, images: [], namespace: NAMESPACE });
  }

  /** Another node worker has these settings for as long as the work takes. */
  async withSettings(settings: Env, work: () => Promise<void>): Promise<void> {
    const restart = async (wanted: Env): Promise<void> => {
      this.#settings = wanted;
      await this.killNodeWorker();
      await this.startWorkers();
      // Workflows wait for a worker, a pod that is made now does not.
      await until('the agent', 30_000, () => this.#agentAnswers());
    };
    await restart(settings);
    try {
      await work();
    } finally {
      await restart({});
    }
  }

  async #agentAnswers(): Promise<boolean> {
    const socket = connect(join(this.runDir, 'agent.sock'));
    try {
      return await once(socket, 'connect').then(
        () => true,
        () => false,
      );
    } finally {
      socket.destroy();
    }
  }

  /** real, effective, saved and file system user of its first process */
  async uidOf(id: string): Promise<string[]> {
    const status = readFileSync(`/proc/${await this.initPid(id)}/status`, 'utf8');
    return (/^Uid:\s+(.*)$/m.exec(status)?.[1] ?? '').split(/\s+/);
  }

  async isFrozen(id: string): Promise<boolean> {
    const cgroup = freezerCgroup(await this.initPid(id));
    if (cgroup === undefined) {
      return false;
    }
    const file = cgroup.version === 2 ? 'cgroup.freeze' : 'freezer.state';
    return /^(?:1|FROZEN|FREEZING)$/.test(readFileSync(join(cgroup.path, file), 'utf8').trim());
  }

  /** Limit of the container's own memory cgroup, as the kernel shows it. */
  async memoryLimit(id: string): Promise<string> {
    const text = readFileSync(`/proc/${await this.initPid(id)}/cgroup`, 'utf8');
    const [, v1] = /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m.exec(text) ?? [];
    const file =
      v1 === undefined
        ? join('/sys/fs/cgroup', /^0::(.*)$/m.exec(text)?.[1] ?? '', 'memory.max')
        : join('/sys/fs/cgroup/memory', v1, 'memory.limit_in_bytes');
    return readFileSync(file, 'utf8').trim();
  }

  localCheckpoints(): string[] {
    const dir = join(this.stateDir, 'checkpoints');
    return existsSync(dir) ? readdirSync(dir).filter((name) => name.startsWith('checkpoint-')) : [];
  }

  /** End of a worker's log. */
  workerLog(name: 'worker-node' | 'worker-control', lines: number): string {
    return logTail(join(this.#dev.paths.dir, 'logs', `${name}.log`), lines);
  }

  async close(): Promise<void> {
    await this.removeAll();
    await this.client.close();
    this.#containerd.close();
    rmSync(join(this.#dev.paths.dir, 'scratch'), { recursive: true, force: true });
    const { stillMounted } = await down({ env: this.#env });
    if (stillMounted.length > 0) {
      throw new Error(`left mounted: ${stillMounted.join(', ')}`);
    }
  }
}

/** Waits for a condition that polls; a case never sleeps for a fixed time to await something. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  condition: () => Promise<T | undefined | false> | T | undefined | false,
  everyMs = 10,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value !== undefined && value !== false) {
      return value;
    }
    if (performance.now() > deadline) {
      throw new Error(`timed out after ${timeoutMs} ms: ${what}`);
    }
    await sleep(everyMs);
  }
}

export function assert(condition: boolean, what: string): asserts condition {
  if (!condition) {
    throw new Error(`not so: ${what}`);
  }
}

export function assertEqual<T>(actual: T, expected: T, what: string): void {
  const [is, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  assert(is === wanted, `${what}: ${is} is not ${wanted}`);
}

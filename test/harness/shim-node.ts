/*
 * A node for tests of the runtime alone: containers by ctr, an agent in the test's own process, so that a test can take
 * it away, checkpoints by hand.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { checkpointDirName } from '../../core/checkpoint/file-names.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { RunResult } from '../../native/run/run.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { type AgentServer, startAgent } from '../../workers/agent.ts';
import { readInside, removeContainer } from './containers.ts';
import { type HandMade, checkpointByHand } from './hand-made.ts';
import { BUSYBOX_IMAGE } from './images.ts';
import { fromLane } from './provided.ts';

export const RUNTIME = ['--runtime', 'io.containerd.runc.kybernate.v1'];
export const COUNTER = 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.05; done';

export class ShimNode {
  readonly dir: string;
  readonly stateDir: string;
  /** the node's one restore root */
  readonly root: string;
  readonly namespace: string;
  readonly deps: NodeDeps;
  /** messages of the agent's log */
  readonly messages: string[] = [];
  readonly op: Op;
  #agent: AgentServer | undefined;
  #made: string[] = [];
  #serial = 0;

  constructor() {
    const { address, dir: base, path, runDir, namespace } = fromLane('containerd');
    const { runc, criu } = fromLane('programs');
    this.dir = mkdtempSync(join(base, 'shim-'));
    this.stateDir = join(this.dir, 'state');
    this.root = join(this.dir, 'images');
    mkdirSync(this.root, { mode: 0o700 });
    this.namespace = namespace;
    const note = (_fields: unknown, message: string): void => {
      this.messages.push(message);
    };
    this.op = {
      signal: new AbortController().signal,
      log: { debug: note, info: note, warn: note, error: note },
      progress: () => undefined,
    };
    this.deps = {
      containerd: connectContainerd(address),
      run: runExeca,
      gpu: () => ({ reason: 'no GPU in this test' }),
      settings: {
        node: 'test',
        stateDir: this.stateDir,
        runDir,
        containerdAddress: address,
        runcPath: runc,
        criuPath: criu,
        programPath: path,
        cudaLibrary: 'libcuda.so.1',
        nvmlLibrary: 'libnvidia-ml.so.1',
        runnerCommand: [],
        restoreRoots: [this.root],
        restoreFromEnvironment: true,
        restoreRuntime: 'io.containerd.runc.kybernate.v1',
      },
    };
  }

  async startAgent(): Promise<void> {
    this.messages.length = 0;
    this.#agent = await startAgent({
      deps: this.deps,
      log: this.op.log,
      fetchCheckpoint: (id) =>
        Promise.reject(new KybernateError('CheckpointNotFound', `no checkpoint ${id} on this node or in its store`)),
    });
  }

  async stopAgent(): Promise<void> {
    await this.#agent?.close();
    this.#agent = undefined;
  }

  async removeContainers(): Promise<void> {
    for (const id of this.#made.splice(0).reverse()) {
      await removeContainer(this.deps.containerd, this.namespace, id);
    }
  }

  close(): void {
    this.deps.containerd.close();
    rmSync(this.dir, { recursive: true, force: true });
  }

  ctr(...args: string[]): Promise<RunResult> {
    return openContainerd(fromLane('containerd').dir, process.env).ctr(['-n', this.namespace, ...args], 30_000);
  }

  async ctrOk(...args: string[]): Promise<string> {
    const result = await this.ctr(...args);
    if (result.exitCode !== 0) {
      throw new Error(`ctr ${args.join(' ')}: ${result.stderr}`);
    }
    return result.stdout;
  }

  /** A fresh id; its container is removed after the test. */
  name(prefix: string): string {
    const id = `${prefix}-${process.pid}-${this.next()}`;
    this.#made.push(id);
    return id;
  }

  next(): number {
    this.#serial += 1;
    return this.#serial;
  }

  run(id: string, flags: readonly string[], ...command: string[]): Promise<RunResult> {
    return this.ctr('run', '-d', '--null-io', ...RUNTIME, ...flags, BUSYBOX_IMAGE, id, ...command);
  }

  async exec(id: string, script: string): Promise<string> {
    return (await this.ctrOk('tasks', 'exec', '--exec-id', `x${this.next()}`, id, 'sh', '-c', script)).trim();
  }

  async count(id: string): Promise<number> {
    let text = '';
    while (text === '') {
      // Empty between the truncation and the write of its shell.
      text = await readInside(this.deps.containerd, this.namespace, id, '/dev/shm/count');
    }
    return Number(text);
  }

  /** Waits until the counter has passed a value. */
  async countAbove(id: string, value: number): Promise<number> {
    for (;;) {
      const now = await this.count(id);
      if (now > value) {
        return now;
      }
      await sleep(20);
    }
  }

  async startCounter(flags: readonly string[] = [], setUp = ':'): Promise<string> {
    const id = this.name('source');
    const started = await this.run(id, flags, 'sh', '-c', `${setUp}; ${COUNTER}`);
    if (started.exitCode !== 0) {
      throw new Error(started.stderr);
    }
    const { pid = 0 } = (await this.deps.containerd.getTask(this.namespace, id)) ?? {};
    while (!existsSync(`/proc/${pid}/root/dev/shm/count`)) {
      await sleep(20);
    }
    await this.countAbove(id, 0);
    return id;
  }

  async checkpoint(container: string, more: Partial<HandMade> = {}): Promise<string> {
    const checkpointId = `hand-${process.pid}-${this.next()}`;
    await checkpointByHand({
      deps: this.deps,
      namespace: this.namespace,
      container,
      stateDir: this.stateDir,
      checkpointId,
      ...more,
    });
    return checkpointId;
  }

  checkpointDir(checkpointId: string): string {
    return join(this.stateDir, 'checkpoints', checkpointDirName(checkpointId));
  }

  damage(checkpointId: string): void {
    truncateSync(join(this.checkpointDir(checkpointId), 'criu/mm-1.img'), 0);
  }

  /** What the runtime keeps of a container; empty once it is gone. */
  traces(id: string): string[] {
    return [
      `/run/containerd/runc/${this.namespace}/${id}`,
      `/sys/fs/cgroup/freezer/${this.namespace}/${id}`,
      `/sys/fs/cgroup/${this.namespace}/${id}`,
      join(fromLane('containerd').dir, 'state/io.containerd.runtime.v2.task', this.namespace, id),
    ].filter((path) => existsSync(path));
  }

  savedLogs(): string[] {
    const logs = join(this.stateDir, 'logs');
    return existsSync(logs) ? readdirSync(logs) : [];
  }

  async status(id: string): Promise<string | undefined> {
    return (await this.deps.containerd.getTask(this.namespace, id))?.status;
  }

  async untilStopped(id: string): Promise<void> {
    while ((await this.status(id)) === 'running') {
      await sleep(20);
    }
  }

  async untilRunning(id: string): Promise<void> {
    while ((await this.status(id)) !== 'running') {
      await sleep(20);
    }
  }

  /** ctr with a terminal of its own, by script(1); ends with the container. */
  terminal(args: readonly string[]): Promise<RunResult> {
    const { address, path } = fromLane('containerd');
    const words = ['ctr', '--address', address, '-n', this.namespace, 'run', '-t', ...args];
    const command = words.map((word) => `'${word.replaceAll("'", String.raw`'\''`)}'`).join(' ');
    return runExeca('script', ['-qfc', command, '/dev/null'], { env: { PATH: path, TERM: 'xterm' } });
  }

  /** ctr with pipes. */
  piped(args: readonly string[]): Piped {
    const { address, path } = fromLane('containerd');
    const child = spawn('ctr', ['--address', address, '-n', this.namespace, 'run', ...args], {
      env: { PATH: path, CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS: '1' },
    });
    let output = '';
    const collect = (chunk: Buffer): void => {
      output += chunk.toString();
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    return {
      write: (text) => child.stdin.write(text),
      end: () => child.stdin.end(),
      exit: new Promise((resolve) => child.once('exit', resolve)),
      async saw(text) {
        const deadline = Date.now() + 15_000;
        while (!output.includes(text)) {
          if (Date.now() > deadline) {
            throw new Error(`no ${JSON.stringify(text)} in ${JSON.stringify(output)}`);
          }
          await sleep(20);
        }
      },
    };
  }
}

export interface Piped {
  write(text: string): void;
  saw(text: string): Promise<void>;
  end(): void;
  readonly exit: Promise<number | null>;
}

/** Flags of `ctr run` that ask for a restore. */
export function from(reference: string, ...more: string[]): string[] {
  const annotations = [`kybernate.io/restore-from=${reference}`, ...more.map((entry) => `kybernate.io/${entry}`)];
  return annotations.flatMap((annotation) => ['--annotation', annotation]);
}

/** A process in a UTS namespace of its own: the pod that a container joins. */
export async function sharedUts(hostname: string): Promise<{ path: string; end: () => void }> {
  const child = spawn('unshare', ['--uts', 'sh', '-c', 'hostname "$0"; exec sleep 600', hostname], { stdio: 'ignore' });
  const pid = child.pid ?? 0;
  while (readFileSync(`/proc/${pid}/comm`, 'utf8').trim() !== 'sleep') {
    await sleep(10);
  }
  return { path: `/proc/${pid}/ns/uts`, end: () => child.kill('SIGKILL') };
}

/** A connection to an echo server that has answered once; waits for the server. */
export async function echoClient(port: number): Promise<Socket> {
  for (let attempt = 0; ; attempt += 1) {
    const socket = createConnection({ port, host: '127.0.0.1' });
    const echoed = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => socket.write('hello\n'));
      socket.once('data', () => resolve(true));
      socket.once('error', () => resolve(false));
      socket.once('close', () => resolve(false));
    });
    if (echoed) {
      socket.on('error', () => undefined);
      return socket;
    }
    if (attempt > 100) {
      throw new Error(`nobody echoes on port ${port}`);
    }
    await sleep(50);
  }
}

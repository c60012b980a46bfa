/*
 * The workloads: each tells its life in a sequence that can be read from outside, whether containerd answers or not.
 * A job is one of them under one container id; after a restore it is the same job with another process.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { waitFor } from '../../cli/dev/wait.ts';
import { messageOf } from '../../core/errors.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { fakeDevice } from '../harness/fake-gpu.ts';
import { PYTHON_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import { makeNetworkNamespace } from '../harness/network.ts';
import { workload } from '../harness/workloads.ts';
import type { Rig } from './rig.ts';
import { lastTick, readNotes, readTicks, type Tick } from './sequence.ts';

/** Nobody ticks faster than its pause between two ticks. */
const PERIOD_MS = 20;
const GPU_PERIOD_MS = 10;
const PYTHON = '/usr/bin/python3';
const REDIS_PORT = 6379;
const VRAM_BYTES = 16 * 1024 ** 2;
const TREE_CHECKS = 12;
const AWAY_MS = 60_000;
const RECONNECT_MS = 5000;

/** A committed checkpoint of a job, and where its sequence was. */
export interface Committed {
  readonly checkpointId: string;
  /** the number in the images lies between them */
  readonly low: number;
  readonly high: number;
  readonly token: string;
  readonly isRemote: boolean;
}

export interface JobKind {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  /** inside the container; absent: a client on the host writes it */
  readonly sequence?: string;
  readonly network?: { readonly path: string; readonly address: string; remove(): Promise<void> };
  readonly hasGpu?: boolean;
  /** needs nothing of CRIU that containerd's own call cannot ask for, and leaves no GPU to the agent */
  readonly isPlain?: boolean;
}

export class Job {
  readonly kind: JobKind;
  readonly #rig: Rig;
  #initPid = 0;
  #initStart = 0;
  #adoptedAt = 0;
  #client: ChildProcess | undefined;
  /** newest last */
  committed: Committed[] = [];

  constructor(rig: Rig, kind: JobKind) {
    this.#rig = rig;
    this.kind = kind;
  }

  get id(): string {
    return this.kind.name;
  }

  get initPid(): number {
    return this.#initPid;
  }

  async start(): Promise<void> {
    const { image, command, network } = this.kind;
    const flags = [...workload(), ...(network === undefined ? [] : ['--with-ns', `network:${network.path}`])];
    await this.#ctr('run', '-d', '--null-io', ...flags, image, this.id, ...command);
    await this.adopt();
    if (network !== undefined) {
      const script = fileURLToPath(new URL('../workloads/redis-client.py', import.meta.url));
      const args = ['-B', script, network.address, String(REDIS_PORT), this.#file];
      this.#client = spawn('python3', args, { stdio: 'ignore' });
    }
    await waitFor(`tick of ${this.id}`, 30_000, () => this.ticks().length > 10);
    if (this.kind.hasGpu === true) {
      this.#rig.fake.writeVram(this.id, this.#initPid, this.#vram);
    }
  }

  /** The container has a new process: after its start or a restore. */
  async adopt(): Promise<void> {
    // A containerd that was just killed comes back.
    const task = await waitFor('answer from containerd', AWAY_MS, () =>
      this.#rig.containerd.getTask(this.#rig.namespace, this.id).then(
        (found) => ({ pid: found?.pid ?? 0 }),
        () => undefined,
      ),
    );
    this.#initPid = task.pid;
    this.#initStart = readProcess(this.#initPid)?.startTime ?? 0;
    this.#adoptedAt = Date.now();
    this.#client?.kill('SIGUSR1');
  }

  get isAlive(): boolean {
    const init = readProcess(this.#initPid);
    return init !== undefined && init.startTime === this.#initStart && init.state !== 'Z';
  }

  ticks(): Tick[] {
    return readTicks(this.#file);
  }

  get last(): Tick | undefined {
    return lastTick(this.#file);
  }

  get period(): number {
    return this.kind.hasGpu === true ? GPU_PERIOD_MS : PERIOD_MS;
  }

  get #file(): string {
    const { sequence } = this.kind;
    return sequence === undefined
      ? join(this.#rig.dir, `${this.id}.sequence`)
      : `/proc/${this.#initPid}/root${sequence}`;
  }

  get #vram(): string {
    return `vram of ${this.id}`;
  }

  /** What is wrong with it beside its sequence; nothing it is, or why not. */
  complaints(since: number): string[] {
    // It connects again when its server was restored, once by itself and once as it is told.
    const from = Math.max(since, this.#adoptedAt + RECONNECT_MS);
    const notes = this.kind.network === undefined ? [] : readNotes(this.#file).filter(({ time }) => time > from);
    const vram = this.kind.hasGpu === true ? this.#rig.fake.readVram(this.id, this.#initPid) : this.#vram;
    return [
      ...notes.map(({ note }) => (note === 'connected' ? 'its client lost the connection' : note)),
      ...(vram === this.#vram ? [] : [`its VRAM holds ${JSON.stringify(vram)}`]),
    ];
  }

  /** Every check of the process tree moves: pipes, sockets, timers and the rest. Others have none. */
  async checksMove(): Promise<string[]> {
    if (this.kind.name !== 'tree') {
      return [];
    }
    const before = this.#counts();
    let still = Object.keys(before);
    await waitFor('move of every check of the tree', 10_000, () => {
      const now = this.#counts();
      still = Object.keys(before).filter((name) => (now[name] ?? 0) <= (before[name] ?? 0));
      return still.length === 0 && Object.keys(now).length === TREE_CHECKS;
    }).catch(() => undefined);
    return still.map((name) => `its ${name} does not work`);
  }

  #counts(): Record<string, number> {
    const file = `/proc/${this.#initPid}/root/tmp/state.json`;
    try {
      return (JSON.parse(readFileSync(file, 'utf8')) as { counts: Record<string, number> }).counts;
    } catch {
      // Ended, or between two of its files.
      return {};
    }
  }

  /** Task, container and snapshot, as their owner would remove them, who waits for a containerd that is away. */
  async remove(): Promise<void> {
    const { namespace } = this.#rig;
    let why = '';
    for (const deadline = performance.now() + AWAY_MS; performance.now() < deadline; await sleep(200)) {
      try {
        const record = await this.#rig.containerd.getContainer(namespace, this.id);
        const task = await this.#rig.containerd.getTask(namespace, this.id);
        if (record === undefined && task === undefined) {
          return;
        }
        await this.#tryCtr('tasks', 'kill', '-s', 'SIGKILL', '-a', this.id);
        await this.#tryCtr('tasks', 'rm', '-f', this.id);
        await this.#tryCtr('containers', 'rm', this.id);
        await this.#tryCtr('snapshots', 'rm', record?.snapshotKey ?? this.id);
      } catch (error) {
        why = messageOf(error);
      }
    }
    throw new Error(`${this.id} cannot be removed: ${why}`);
  }

  async close(): Promise<void> {
    this.#client?.kill('SIGKILL');
    await this.remove().catch(() => undefined);
    await this.kind.network?.remove();
  }

  #ctr(...args: string[]): Promise<string> {
    return this.#rig.tools.ctrOk(['-n', this.#rig.namespace, ...args], 30_000);
  }

  async #tryCtr(...args: string[]): Promise<void> {
    await this.#rig.tools.ctr(['-n', this.#rig.namespace, ...args], 30_000);
  }
}

/** A free /24 of the range for tests, found by the names that are taken. */
function freeSubnet(): number {
  for (let subnet = 100; subnet < 250; subnet += 1) {
    if (!existsSync(`/run/netns/kybchaos${subnet}`)) {
      return subnet;
    }
  }
  throw new Error('no network namespace is free: /run/netns/kybchaos* are left-overs');
}

export async function makeJobs(rig: Rig): Promise<Job[]> {
  const subnet = freeSubnet();
  const network = await makeNetworkNamespace(`kybchaos${subnet}`, subnet);
  const sequence = '/data/sequence';
  const gpu = `/w/fake-gpu.py gpu --devices ${fakeDevice(0).uuid} --vram ${VRAM_BYTES} --sequence ${sequence}`;
  const kinds: JobKind[] = [
    {
      name: 'counter',
      image: PYTHON_IMAGE,
      command: [PYTHON, '/w/counter.py', sequence, '24'],
      sequence,
      isPlain: true,
    },
    { name: 'tree', image: PYTHON_IMAGE, command: [PYTHON, '/w/tree.py', sequence], sequence },
    { name: 'gpu', image: PYTHON_IMAGE, command: [PYTHON, ...gpu.split(' ')], sequence, hasGpu: true },
    {
      name: 'redis',
      image: REDIS_IMAGE,
      command: ['redis-server', '--bind', '0.0.0.0', '--protected-mode', 'no', '--save', '', '--daemonize', 'no'],
      network,
      isPlain: true,
    },
  ];
  return kinds.map((kind) => new Job(rig, kind));
}

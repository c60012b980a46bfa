/*
 * A machine with GPUs that has none: the fake libcuda and NVML of native/fake, compiled once a content, and the directory
 * that holds their devices and the states of processes. `environment` makes workers, runners and the CLI use them.
 * CUDA processes are made with test/workloads/fake-gpu.py, on the host or in a container.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { readProcess } from '../../native/proc/tree.ts';

const SOURCES = fileURLToPath(new URL('../../native/fake', import.meta.url));
export const FAKE_WORKLOAD = fileURLToPath(new URL('../workloads/fake-gpu.py', import.meta.url));
const GIB = 1024 ** 3;

export interface FakeDevice {
  readonly uuid: string;
  readonly minor: number;
  readonly totalBytes: number;
  /** ends with "MIG": in MIG mode */
  readonly name: string;
}

/**
 * Of 80 GiB when nothing else is said. Every test process has GPUs of its own: the fakes know the CUDA processes of the
 * whole machine by the UUIDs that they use.
 */
export function fakeDevice(minor: number, totalBytes: number = 80 * GIB): FakeDevice {
  const owner = process.pid.toString(16).padStart(8, '0');
  const uuid = `GPU-${owner}-0000-0000-0000-${String(minor).padStart(12, '0')}`;
  return { uuid, minor, totalBytes, name: 'Fake H100' };
}

/** A line of the control file; see native/fake/libcuda.c for the actions. */
export interface FakeRule {
  readonly call: 'GetState' | 'Lock' | 'Checkpoint' | 'Restore' | 'Unlock';
  /** host pid; every process otherwise */
  readonly pid?: number;
  /** the nth such call since the rules were set, from 1; every call otherwise */
  readonly nth?: number;
  /** `error=401`, `hang`, `slow=500`, `oom`, ... */
  readonly action: string;
}

export interface FakeCall {
  /** ms since the epoch */
  readonly time: number;
  readonly call: string;
  readonly pid: number;
  /** `frozen`: the process was frozen, and the call waited for its thaw */
  readonly what: 'begin' | 'end' | 'frozen';
  /** CUresult, at the end */
  readonly result: number;
  readonly ms: number;
  /** pid of the process that called */
  readonly caller: number;
}

/** The page of a process says who it is; the driver keeps the rest by pid and start time. */
export type FakeState = 'running' | 'locked' | 'checkpointed' | 'failed';

export class FakeGpu {
  readonly dir: string;
  readonly cudaLibrary: string;
  readonly nvmlLibrary: string;
  readonly #children: ChildProcess[] = [];

  private constructor(dir: string) {
    this.dir = dir;
    this.cudaLibrary = join(dir, 'libcuda.so.1');
    this.nvmlLibrary = join(dir, 'libnvidia-ml.so.1');
  }

  /** @param devices one of 80 GiB when left out */
  static open(devices: readonly FakeDevice[] = [fakeDevice(0)]): FakeGpu {
    const dir = mkdtempSync(join(tmpdir(), 'kyb-gpu-'));
    for (const name of ['processes', 'counts', 'vram']) {
      mkdirSync(join(dir, name));
    }
    const fake = new FakeGpu(dir);
    // The driver's devices live as long as its library is loaded: files of its own, for tests that share a process.
    const compiled = compileFakes();
    for (const library of [fake.cudaLibrary, fake.nvmlLibrary]) {
      copyFileSync(join(compiled, basename(library)), library);
    }
    fake.setDevices(devices);
    return fake;
  }

  /** For workers, runners and the CLI. */
  get environment(): Record<'KYBERNATE_LIBCUDA' | 'KYBERNATE_LIBNVML' | 'KYBERNATE_FAKE_GPU', string> {
    return {
      KYBERNATE_LIBCUDA: this.cudaLibrary,
      KYBERNATE_LIBNVML: this.nvmlLibrary,
      KYBERNATE_FAKE_GPU: this.dir,
    };
  }

  setDevices(devices: readonly FakeDevice[]): void {
    const lines = devices.map(({ uuid, minor, totalBytes, name }) => `${uuid} ${minor} ${totalBytes} ${name}\n`);
    this.#write('devices', lines.join(''));
  }

  /** Replaces all rules; counting starts again. */
  setRules(rules: readonly FakeRule[]): void {
    rmSync(join(this.dir, 'control'), { force: true });
    for (const name of readdirSync(join(this.dir, 'counts'))) {
      rmSync(join(this.dir, 'counts', name));
    }
    const lines = rules.map(({ call, pid, nth, action }) => `${call} ${pid ?? '*'} ${nth ?? '*'} ${action}\n`);
    this.#write('control', lines.join(''));
  }

  /** Calls that hang go on, now and later. */
  release(): void {
    writeFileSync(join(this.dir, 'release'), '');
  }

  /** 12080 for a driver without the map of devices; 13000 otherwise */
  setApiVersion(version: number): void {
    this.#write('api-version', String(version));
  }

  /** In the order in which they were logged; GetState has no beginning. */
  calls(): FakeCall[] {
    const path = join(this.dir, 'calls.log');
    const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as FakeCall);
  }

  /** What was done to processes and came back well, in order: `Lock 4711`. */
  done(): string[] {
    return this.calls()
      .filter(({ call, what, result }) => call !== 'GetState' && what === 'end' && result === 0)
      .map(({ call, pid }) => `${call} ${pid}`);
  }

  clearCalls(): void {
    rmSync(join(this.dir, 'calls.log'), { force: true });
  }

  /** Undefined when the driver was never told to do anything to it. */
  state(hostPid: number): FakeState | undefined {
    const name = readdirSync(join(this.dir, 'processes')).find(
      (entry) => entry.startsWith(`${hostPid}-`) && /^\d+-\d+$/.test(entry),
    );
    if (name === undefined) {
      return undefined;
    }
    const [state] = readFileSync(join(this.dir, 'processes', name), 'utf8').split(' ');
    return (['running', 'locked', 'checkpointed', 'failed'] as const)[Number(state)];
  }

  /** Puts a token into the VRAM of a process that runs. @param id first argument of the workload */
  writeVram(id: string, hostPid: number, token: string): void {
    this.#write(`vram/${id}-${hostPid}`, token);
  }

  /** Undefined while the process is checkpointed, or when its VRAM was lost. */
  readVram(id: string, hostPid: number): string | undefined {
    const path = join(this.dir, 'vram', `${id}-${hostPid}`);
    return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
  }

  /** A CUDA process on the host. Ended by `close`. @returns host pid */
  async startProcess(id: string, ...args: string[]): Promise<number> {
    const env = { PATH: process.env['PATH'], FAKE_CUDA_DEVICES: fakeDevice(0).uuid };
    const child = spawn('python3', [FAKE_WORKLOAD, id, '--with-parent', ...args], { stdio: 'ignore', env });
    this.#children.push(child);
    const hostPid = child.pid ?? 0;
    const state = `/tmp/state-${id}.json`;
    for (let tries = 0; tries < 500; tries += 1) {
      // Written after the process became a CUDA process.
      if (existsSync(state) && (JSON.parse(readFileSync(state, 'utf8')) as { pid: number }).pid === hostPid) {
        return hostPid;
      }
      await sleep(10);
    }
    throw new Error(`${FAKE_WORKLOAD} did not start`);
  }

  /** Ends what `startProcess` started; returns when its GPUs are free: the next test file may have GPUs of the same names. */
  endProcesses(): void {
    const children = this.#children.splice(0);
    children.forEach((child) => child.kill('SIGKILL'));
    const clock = new Int32Array(new SharedArrayBuffer(4));
    for (const { pid = 0 } of children) {
      // Node itself reaps it, and only when we are done.
      while (!['Z', undefined].includes(readProcess(pid)?.state)) {
        Atomics.wait(clock, 0, 0, 1);
      }
    }
  }

  /** Ends what `startProcess` started and removes the directory. */
  close(): void {
    this.release();
    this.endProcesses();
    rmSync(this.dir, { recursive: true, force: true });
  }

  #write(name: string, text: string): void {
    const path = join(this.dir, name);
    writeFileSync(`${path}.new`, text);
    renameSync(`${path}.new`, path);
  }
}

/** Why the fakes cannot be made here; undefined when they can. */
export function whyNoFakes(): string | undefined {
  return spawnSync('gcc', ['--version']).status === 0 ? undefined : 'gcc is not installed';
}

/** @returns the directory of both libraries, named after what they are made of */
export function compileFakes(): string {
  const names = readdirSync(SOURCES).sort();
  const hash = createHash('sha256');
  for (const name of names) {
    hash.update(`${name}\0`).update(readFileSync(join(SOURCES, name)));
  }
  const dir = join(tmpdir(), `kyb-fake-cuda-${process.getuid?.() ?? 0}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(dir)) {
    return dir;
  }
  // Several test processes may do this at once: the first rename wins.
  const making = mkdtempSync(`${dir}-`);
  for (const name of ['libcuda', 'libnvidia-ml']) {
    const args = ['-O1', '-Wall', '-Wextra', '-Werror', '-Wno-unused-function', '-fPIC', '-shared'];
    const result = spawnSync('gcc', [...args, '-o', join(making, `${name}.so.1`), join(SOURCES, `${name}.c`)]);
    if (result.status !== 0) {
      throw new Error(`gcc ${name}.c failed: ${result.error?.message ?? result.stderr.toString()}`);
    }
  }
  try {
    renameSync(making, dir);
  } catch (error) {
    if (!existsSync(dir)) {
      throw error;
    }
    rmSync(making, { recursive: true });
  }
  return dir;
}

import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { GpuProcessState } from '../core/gpu/process-state.ts';
import { CudaError } from '../native/cuda/error.ts';
import type { GpuDriver } from '../native/cuda/gpu-driver.ts';
import { readProcess } from '../native/proc/tree.ts';
import type { Run } from '../native/run/run.ts';
import { NO_GPU } from './gpu/gpu-plan.ts';
import { mayBeFrozen, readJournal } from './journal.ts';
import { operationPaths, writePlan, type OperationPlan } from './operation.ts';
import { Runner } from './runner.ts';

const silent = (): void => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };
const run: Run = () =>
  Promise.resolve({
    exitCode: 0,
    timedOut: false,
    cancelled: false,
    forceKilled: false,
    durationMs: 1,
    stderr: '',
    stdout: '{"nftables":[]}',
  });

let dir: string;
let workload: ChildProcess;
let plan: OperationPlan;
let state: GpuProcessState;
/** how many locks run into their timeout from now on */
let busyLocks: number;

/** One process on one GPU. */
const driver: GpuDriver = {
  version: '580.1',
  apiVersion: 13_000,
  devices: () => [],
  memoryInUse: () => [],
  processState: () => Promise.resolve(state),
  lock: async (hostPid, timeoutMs) => {
    busyLocks -= 1;
    if (busyLocks >= 0) {
      await sleep(timeoutMs + 5);
      throw new CudaError({ call: 'Lock', code: 600, name: 'CUDA_ERROR_NOT_READY', hostPid });
    }
    state = 'locked';
  },
  lockPending: () => false,
  checkpoint: () => {
    state = 'checkpointed';
    return Promise.resolve();
  },
  restore: () => {
    state = 'locked';
    return Promise.resolve();
  },
  unlock: () => {
    state = 'running';
    return Promise.resolve();
  },
};

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-busy-'));
  state = 'running';
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
  mkdirSync(join(dir, 'cgroup'));
  writeFileSync(join(dir, 'cgroup', 'freezer.state'), 'THAWED');
  const hostPid = Number(workload.pid);
  const startTime = readProcess(hostPid)?.startTime ?? 0;
  const process = { hostPid, nsPid: 1, startTime, command: 'sleep', vramBytes: 1024, devices: [], visible: [] };
  plan = {
    checkpointId: 'ck-test',
    operationId: '2'.repeat(32),
    container: { namespace: 'default', id: 'c1' },
    token: 1,
    after: 'resume',
    freezeBudgetMs: 30_000,
    holdBudgetMs: 30_000,
    checkpointDir: join(dir, 'checkpoint-a'),
    gpu: { ...NO_GPU, processes: [process], vramBytes: 1024, lockTimeoutMs: 1 },
    facts: {
      initHostPid: hostPid,
      initStartTime: startTime,
      processes: [],
      foreignHostPids: [],
      freezer: { version: 1, path: join(dir, 'cgroup') },
      networkNamespace: { private: true },
    },
    settings: { node: 'n', runDir: dir, stateDir: dir },
  } as unknown as OperationPlan;
  writePlan(plan);
});

afterEach(() => {
  workload.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

const journal = () => readJournal(operationPaths(plan.settings, plan.operationId).journal);

function newRunner(): Runner {
  const containerd = (): never => {
    throw new Error('no containerd here');
  };
  return new Runner(plan, { run, containerd, log, gpu: () => ({ driver }) });
}

test('a save that found the GPU busy leaves nothing behind, and the next one works', async () => {
  const runner = newRunner();
  busyLocks = 1;

  await expect(runner.saveGpuState()).rejects.toMatchObject({ type: 'GpuBusy' });
  expect(state).toBe('running');
  expect(mayBeFrozen(journal())).toBe(false);
  expect(runner.busy).toBe(false);

  expect(await runner.saveGpuState()).toMatchObject({ gpuProcesses: 1, vramBytes: 1024 });
  expect(state).toBe('checkpointed');
  expect(mayBeFrozen(journal())).toBe(true);
  expect(runner.busy).toBe(true);

  const resumed = await runner.resume();
  expect(state).toBe('running');
  expect(resumed).toMatchObject({ source: 'running', gpu: { warnings: [] } });
  expect(mayBeFrozen(journal())).toBe(false);
});

test('a save does not begin again after the operation was ended', async () => {
  const runner = newRunner();
  busyLocks = 1;
  await expect(runner.saveGpuState()).rejects.toMatchObject({ type: 'GpuBusy' });
  await runner.resume();

  expect(() => runner.saveGpuState()).toThrow(/ended before its capture/);
});

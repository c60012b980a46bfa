import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { GPU_TRANSITIONS, type GpuProcessState, type GpuTransition } from '../../core/gpu/process-state.ts';
import { CudaError, CudaTimeout } from '../../native/cuda/error.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { bringBackGpu } from './bring-back.ts';
import type { GpuTarget } from './driver-call.ts';
import type { GpuProcess } from './gpu-plan.ts';
import { memoryOf, saveGpu } from './save.ts';

const GIB = 1024 ** 3;
const silent = (): void => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };

/** What one call does instead of its work. `late`: works, and never answers. `dead`: the process has ended. */
type Fault = number | 'timeout' | 'late' | 'dead';

interface Rule {
  readonly call: GpuTransition;
  /** 0 to 2 */
  readonly process: number;
  readonly fault: Fault;
  /** how often; default: always */
  readonly times?: number;
}

let dir: string;
let children: ChildProcess[];
let processes: GpuProcess[];
let states: (GpuProcessState | 'none')[];
let calls: string[];
let rules: Rule[];
let counts: Map<Rule, number>;
let freeBytes: number;
/** of which a lock does not come back */
let pending: number | undefined;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-save-'));
  mkdirSync(join(dir, 'cgroup'));
});
afterAll(() => {
  children.forEach((child) => child.kill('SIGKILL'));
  rmSync(dir, { recursive: true });
});

beforeEach(() => {
  children?.forEach((child) => child.kill('SIGKILL'));
  children = [0, 1, 2].map(() => spawn('sleep', ['600'], { stdio: 'ignore' }));
  processes = children.map(({ pid: hostPid = 0 }, index) => ({
    hostPid,
    nsPid: index + 1,
    startTime: readProcess(hostPid)?.startTime ?? 0,
    command: `rank${index}`,
    vramBytes: GIB,
    devices: ['GPU-0'],
    visible: ['GPU-0'],
  }));
  states = ['running', 'running', 'running'];
  [calls, rules, counts, freeBytes] = [[], [], new Map(), 80 * GIB];
  pending = undefined;
  freezer('THAWED');
});

function freezer(state: string): void {
  writeFileSync(join(dir, 'cgroup', 'freezer.state'), state);
}

function indexOf(hostPid: number): number {
  return processes.findIndex((process) => process.hostPid === hostPid);
}

async function end(index: number): Promise<void> {
  const child = children[index];
  const gone = new Promise((resolve) => child?.once('exit', resolve));
  child?.kill('SIGKILL');
  await gone;
}

function faultOf(call: GpuTransition, process: number): Fault | undefined {
  const rule = rules.find((one) => one.call === call && one.process === process);
  const count = rule === undefined ? 0 : (counts.get(rule) ?? 0) + 1;
  if (rule === undefined || count > (rule.times ?? Infinity)) {
    return undefined;
  }
  counts.set(rule, count);
  return rule.fault;
}

async function move(name: GpuTransition, hostPid: number): Promise<void> {
  const index = indexOf(hostPid);
  const call = `cuCheckpointProcess${name}`;
  calls.push(`${name} ${index}`);
  const fault = faultOf(name, index);
  if (fault === 'dead') {
    await end(index);
    throw new CudaError({ call, code: 304, name: 'CUDA_ERROR_OPERATING_SYSTEM', hostPid, gone: true });
  }
  if (typeof fault === 'number') {
    throw new CudaError({ call, code: fault, name: `code ${fault}`, hostPid });
  }
  if (fault !== 'timeout') {
    if (states[index] !== GPU_TRANSITIONS[name].from) {
      throw new CudaError({ call, code: 401, name: 'CUDA_ERROR_ILLEGAL_STATE', hostPid });
    }
    states[index] = GPU_TRANSITIONS[name].to;
  }
  if (fault !== undefined) {
    throw new CudaTimeout(call, hostPid, 1);
  }
}

const driver: GpuDriver = {
  version: '580.0',
  apiVersion: 13000,
  devices: () => [
    {
      uuid: 'GPU-0',
      name: 'Fake',
      minor: 0,
      index: 0,
      memoryTotalBytes: 80 * GIB,
      memoryFreeBytes: freeBytes,
      computeCapability: '9.0',
      mig: false,
    },
  ],
  memoryInUse: () => processes.map(({ hostPid }) => ({ hostPid, uuid: 'GPU-0', usedBytes: 2 * GIB })),
  processState: (hostPid) => Promise.resolve(states[indexOf(hostPid)] ?? 'none'),
  lock: (hostPid) => move('lock', hostPid),
  lockPending: (hostPid) => pending === indexOf(hostPid),
  checkpoint: (hostPid) => move('checkpoint', hostPid),
  restore: (hostPid) => move('restore', hostPid),
  unlock: (hostPid) => move('unlock', hostPid),
};

const target = (): GpuTarget => ({
  driver,
  processes,
  freezer: { version: 1, path: join(dir, 'cgroup') },
  container: 'default/c1',
  log,
  settleMs: 200,
});

function save(options: Partial<Parameters<typeof saveGpu>[1]> = {}): Promise<void> {
  return saveGpu(target(), { lockTimeoutMs: 300, signal: new AbortController().signal, ...options });
}

const bringBack = (): Promise<void> => bringBackGpu(target(), { memoryWaitMs: 200 });

/** Every process of the driver, as it says. */
const allRun = ['running', 'running', 'running'];

test('all are locked before the first is saved, and come back in the reverse order', async () => {
  const parts: string[] = [];
  const memory = memoryOf(target());
  await save({ onPart: (part) => parts.push(part), onLocked: () => parts.push('locked') });
  expect(states).toEqual(['checkpointed', 'checkpointed', 'checkpointed']);
  await bringBackGpu(target(), { memory, onPart: (part) => parts.push(part) });

  expect(calls).toEqual([
    'lock 0',
    'lock 1',
    'lock 2',
    'checkpoint 0',
    'checkpoint 1',
    'checkpoint 2',
    'restore 2',
    'restore 1',
    'restore 0',
    'unlock 2',
    'unlock 1',
    'unlock 0',
  ]);
  expect(parts).toEqual(['gpu-lock', 'locked', 'gpu-save', 'gpu-restore', 'gpu-unlock']);
  expect(memory.map(({ usedBytes }) => usedBytes)).toEqual([2 * GIB, 2 * GIB, 2 * GIB]);
  expect(states).toEqual(allRun);
});

test('a process that a late lock may still hold is not back before that has returned', async () => {
  pending = 1;
  rules = [{ call: 'lock', process: 1, fault: 'timeout' }];

  await expect(save()).rejects.toMatchObject({
    type: 'Poisoned',
    message: expect.stringMatching(/has not come back, and may still take hold/) as string,
    details: { final: false, processes: [{ hostPid: processes[1]?.hostPid, state: 'running' }] },
  });
  expect(states).toEqual(allRun);
  // the late lock
  [pending, states[1]] = [undefined, 'locked'];
  await bringBack();

  expect(states).toEqual(allRun);
});

test('nothing is locked while one of them is stopped by a signal', async () => {
  children[1]?.kill('SIGSTOP');
  await vi.waitUntil(() => readProcess(processes[1]?.hostPid ?? 0)?.state === 'T');

  await expect(save()).rejects.toMatchObject({
    type: 'DumpFailed',
    details: { hostPids: [processes[1]?.hostPid] },
  });

  expect([calls, states]).toEqual([[], allRun]);
});

describe('what an earlier attempt has done already is not done again', () => {
  const cases: Record<string, { from: GpuProcessState[]; saving: string[]; returning: string[] }> = {
    'one is locked': {
      from: ['locked', 'running', 'running'],
      saving: ['lock 1', 'lock 2', 'checkpoint 0', 'checkpoint 1', 'checkpoint 2'],
      returning: ['unlock 0'],
    },
    'one is saved, one locked': {
      from: ['checkpointed', 'locked', 'running'],
      saving: ['lock 2', 'checkpoint 1', 'checkpoint 2'],
      returning: ['restore 0', 'unlock 1', 'unlock 0'],
    },
    'all are saved': {
      from: ['checkpointed', 'checkpointed', 'checkpointed'],
      saving: [],
      returning: ['restore 2', 'restore 1', 'restore 0', 'unlock 2', 'unlock 1', 'unlock 0'],
    },
  };
  test.each(Object.entries(cases))('%s', async (_name, { from, saving, returning }) => {
    states = [...from];
    await save();
    expect(calls).toEqual(saving);

    states = [...from];
    calls = [];
    await bringBack();
    expect(calls).toEqual(returning);
  });
});

describe('a failure leaves every process running', () => {
  const cases: Record<string, { rules: Rule[]; type: string; undone: string[] }> = {
    'a kernel of the second runs for ever': {
      rules: [{ call: 'lock', process: 1, fault: 600 }],
      type: 'GpuBusy',
      undone: ['unlock 2', 'unlock 0'],
    },
    'the driver refuses the lock': {
      rules: [{ call: 'lock', process: 1, fault: 999 }],
      type: 'DumpFailed',
      undone: ['unlock 2', 'unlock 0'],
    },
    'managed memory': {
      rules: [{ call: 'checkpoint', process: 1, fault: 801 }],
      type: 'GpuUnsupported',
      undone: ['restore 2', 'restore 0', 'unlock 2', 'unlock 1', 'unlock 0'],
    },
    'one cannot be saved': {
      rules: [{ call: 'checkpoint', process: 0, fault: 2 }],
      type: 'DumpFailed',
      undone: ['restore 2', 'restore 1', 'unlock 2', 'unlock 1', 'unlock 0'],
    },
  };
  test.each(Object.entries(cases))('%s', async (_name, { rules: given, type, undone }) => {
    rules = given;

    await expect(save()).rejects.toMatchObject({ type });

    expect(states).toEqual(allRun);
    expect(calls.slice(-undone.length)).toEqual(undone);
  });
});

test('a lock that is held up for a while is tried again, with all unlocked in between', async () => {
  rules = [{ call: 'lock', process: 1, fault: 600, times: 2 }];

  await save({ lockTimeoutMs: 5000 });

  expect(calls.filter((call) => !call.startsWith('checkpoint'))).toEqual([
    'lock 0',
    'lock 1',
    'lock 2',
    'unlock 2',
    'unlock 0',
    'lock 0',
    'lock 1',
    'lock 2',
    'unlock 2',
    'unlock 0',
    'lock 0',
    'lock 1',
    'lock 2',
  ]);
  expect(states).toEqual(['checkpointed', 'checkpointed', 'checkpointed']);
});

describe('a call that does not answer', () => {
  test.each(['lock', 'checkpoint'] as const)('but has worked is done: %s', async (call) => {
    rules = [{ call, process: 1, fault: 'late' }];

    await save();

    expect(states).toEqual(['checkpointed', 'checkpointed', 'checkpointed']);
  });

  test.each(['restore', 'unlock'] as const)('but has worked is done: %s', async (call) => {
    await save();
    rules = [{ call, process: 1, fault: 'late' }];

    await bringBack();

    expect(states).toEqual(allRun);
  });

  test('and does nothing is undone: lock', async () => {
    rules = [{ call: 'lock', process: 1, fault: 'timeout' }];

    await expect(save()).rejects.toMatchObject({ type: 'DumpFailed', message: /did not return within/ });

    expect(states).toEqual(allRun);
  });
});

describe('a process that ends', () => {
  test('in the lock fails the save of the others, which run', async () => {
    rules = [{ call: 'lock', process: 1, fault: 'dead' }];

    await expect(save()).rejects.toMatchObject({ type: 'DumpFailed', message: /rank1\) has ended/ });

    expect([states[0], states[2]]).toEqual(['running', 'running']);
  });

  test('in the save (out of memory) fails it, and the others run', async () => {
    rules = [{ call: 'checkpoint', process: 2, fault: 'dead' }];

    await expect(save()).rejects.toMatchObject({ type: 'DumpFailed', message: /out of memory\?/ });

    expect([states[0], states[1]]).toEqual(['running', 'running']);
  });

  test('while saved is no obstacle for the others', async () => {
    await save();
    await end(0);

    await bringBack();

    expect([states[1], states[2]]).toEqual(['running', 'running']);
  });

  test('or has given up CUDA since the plan fails the save', async () => {
    states[1] = 'none';

    await expect(save()).rejects.toMatchObject({
      type: 'DumpFailed',
      message: /rank1\) does not use the GPU any more/,
    });

    expect([states[0], states[2]]).toEqual(['running', 'running']);
  });

  test('together with all others is a container that does not run', async () => {
    await Promise.all([0, 1, 2].map((index) => end(index)));

    await expect(save()).rejects.toMatchObject({ type: 'ContainerNotRunning' });
  });
});

test('a signal that comes in the save is heeded after it, and all run', async () => {
  const abort = new AbortController();
  const reason = new Error('budget');

  await expect(
    save({ signal: abort.signal, onPart: (part) => part === 'gpu-save' && abort.abort(reason) }),
  ).rejects.toBe(reason);

  expect(calls).toContain('checkpoint 0');
  expect(states).toEqual(allRun);
});

test('no call is made on a container that stands still', async () => {
  freezer('FROZEN');
  await expect(save()).rejects.toThrow(/stands? still/);
  await expect(bringBack()).rejects.toThrow(/stands? still/);

  expect(calls).toEqual([]);
});

describe('the way back', () => {
  beforeEach(() => save());

  test('does not begin while a neighbour holds the VRAM, and goes on when it is free', async () => {
    freeBytes = GIB;
    calls = [];

    await expect(bringBack()).rejects.toMatchObject({
      type: 'GpuOutOfMemory',
      details: { lost: false, devices: [{ uuid: 'GPU-0', freeBytes: GIB, neededBytes: 3 * GIB }] },
    });
    expect(calls).toEqual([]);
    freeBytes = 80 * GIB;
    await bringBack();

    expect(states).toEqual(allRun);
  });

  test('waits for VRAM that is about to be free', async () => {
    freeBytes = GIB;
    setTimeout(() => (freeBytes = 80 * GIB), 150);

    await bringBackGpu(target(), { memoryWaitMs: 5000 });

    expect(states).toEqual(allRun);
  });

  test('that the driver refuses for one is final, names its code, and lets the others run', async () => {
    rules = [{ call: 'restore', process: 1, fault: 2 }];

    await expect(bringBack()).rejects.toMatchObject({
      type: 'Poisoned',
      message: /rank1\) is checkpointed: .* returned 2/,
      details: { final: true, processes: [{ command: 'rank1', state: 'checkpointed', code: 2 }] },
    });

    expect(states).toEqual(['running', 'checkpointed', 'running']);
  });

  test('that fails in the unlock is poisoned', async () => {
    rules = [{ call: 'unlock', process: 0, fault: 999 }];

    await expect(bringBack()).rejects.toMatchObject({
      type: 'Poisoned',
      message: /rank0\) is locked: .* returned 999/,
    });
    rules = [];
    await bringBack();

    expect(states).toEqual(allRun);
  });

  test('from a failed state is final', async () => {
    states[1] = 'failed';

    await expect(bringBack()).rejects.toMatchObject({ type: 'Poisoned', details: { final: true } });
  });
});

test('a save that fails and cannot be taken back is poisoned, with both reasons', async () => {
  rules = [
    { call: 'checkpoint', process: 0, fault: 999 },
    { call: 'restore', process: 1, fault: 304 },
  ];

  await expect(save()).rejects.toMatchObject({
    type: 'Poisoned',
    message: /rank1\) is checkpointed: .*304.*after: .*could not be saved/s,
  });
});

import { spawn } from 'node:child_process';
import { expect, test, vi } from 'vitest';
import { CudaTimeout } from '../../native/cuda/error.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { readProcess } from '../../native/proc/tree.ts';
import type { ProcessFacts } from '../container-facts.ts';
import { classify, discover, type ProbedState } from './discovery.ts';
import type { GpuTraces } from './process-facts.ts';

function process(hostPid: number, parentHostPid: number): ProcessFacts {
  return {
    hostPid,
    parentHostPid,
    nsPid: hostPid,
    command: `p${hostPid}`,
    threads: 1,
    state: 'S',
    startTime: hostPid,
    tracerPid: 0,
    sessionHostPid: 0,
    ttyDevice: 0,
    uid: 0,
    entered: false,
  };
}

function traces(hostPid: number, program: string, deviceFds: number, deviceMappings: number): GpuTraces {
  const absent = { cudaIpc: false, ncclLoaded: false, ncclSharedMemory: false, ncclP2pDisabled: false, mps: false };
  return { hostPid, program, deviceFds, deviceMappings, fdsByMinor: new Map(), ...absent };
}

type Row = readonly [hostPid: number, parent: number, state: ProbedState, traces?: GpuTraces];

function look(...rows: Row[]): { cuda: number[]; children: number[]; reasons: readonly string[] } {
  const found = classify(
    rows.map(([hostPid, parent, state]) => ({ process: process(hostPid, parent), state })),
    new Map(rows.flatMap(([hostPid, , , its]) => (its === undefined ? [] : [[hostPid, its] as const]))),
  );
  return {
    cuda: found.cuda.map((one) => one.process.hostPid),
    children: found.children.map((child) => child.hostPid),
    reasons: found.reasons,
  };
}

const PYTHON = '/usr/bin/python3';

test('the driver says who is a CUDA process, whatever it has open', () => {
  expect(look([1, 0, 'none'], [2, 1, 'running', traces(2, PYTHON, 0, 0)], [3, 1, 'none'])).toEqual({
    cuda: [2],
    children: [],
    reasons: [],
  });
});

test('a fork of a CUDA process holds its devices without being one', () => {
  const found = look(
    [1, 0, 'none'],
    [2, 1, 'running', traces(2, PYTHON, 29, 31)],
    [3, 2, 'none', traces(3, PYTHON, 29, 31)],
    [4, 3, 'none', traces(4, PYTHON, 29, 0)],
  );

  expect(found).toEqual({ cuda: [2], children: [3, 4], reasons: [] });
});

test('a fork whose parent has ended is known by its mappings', () => {
  const found = look([2, 1, 'running', traces(2, PYTHON, 29, 31)], [9, 1, 'none', traces(9, PYTHON, 29, 31)]);

  expect(found.children).toEqual([9]);
});

test.each<[string, Row]>([
  ['started by a CUDA process', [5, 2, 'none', traces(5, '/usr/bin/nvidia-smi', 2, 0)]],
  ['beside it', [5, 1, 'none', traces(5, '/usr/bin/nvidia-smi', 1, 0)]],
  ['of the same program without mappings', [5, 1, 'none', traces(5, PYTHON, 1, 0)]],
])('a monitor has to be ended first: %s', (_title, monitor) => {
  const found = look([2, 1, 'running', traces(2, PYTHON, 29, 31)], monitor);

  expect(found.children).toEqual([]);
  expect(found.reasons).toEqual([expect.stringMatching(/process 5 \(p5\).*end it first/)]);
});

test.each<[ProbedState, RegExp]>([
  ['locked', /is locked by somebody else already: unlock it first/],
  ['checkpointed', /is checkpointed by somebody else already/],
  ['failed', /has given up process 2/],
  [{ failed: 'it did not return' }, /does not tell the state of process 2 \(p2\): it did not return; try again/],
])('a process in state %s is refused', (state, reason) => {
  expect(look([2, 1, state, traces(2, PYTHON, 29, 31)]).reasons).toEqual([expect.stringMatching(reason)]);
});

const SELF = readProcess(globalThis.process.pid);

async function discoverSelf(answer: () => Promise<'running' | 'none'>, holds: boolean) {
  if (SELF === undefined) {
    throw new Error('this process is not in /proc');
  }
  const driver: Pick<GpuDriver, 'processState'> = { processState: answer };
  const self = { ...SELF, entered: false };
  return discover(driver as GpuDriver, [self], new Set(holds ? [self.hostPid] : []));
}

test('a driver that does not answer for a process refuses it', async () => {
  const hanging = (): Promise<never> => Promise.reject(new CudaTimeout('cuCheckpointProcessGetProcessState', 1, 2000));

  expect((await discoverSelf(hanging, false)).reasons).toEqual([
    expect.stringMatching(/did not return within 2000 ms/),
  ]);
});

test('an error of the driver matters to those alone that hold its devices', async () => {
  const failing = (): Promise<never> => Promise.reject(new Error('999'));

  expect((await discoverSelf(failing, true)).reasons).toHaveLength(1);
  expect(await discoverSelf(failing, false)).toEqual({ cuda: [], children: [], reasons: [] });
});

test('the driver is not asked about a process that is stopped and holds its devices', async () => {
  const child = spawn('sleep', ['600'], { stdio: 'ignore' });
  try {
    const hostPid = Number(child.pid);
    child.kill('SIGSTOP');
    await vi.waitUntil(() => readProcess(hostPid)?.state === 'T');
    const found = readProcess(hostPid) ?? process(hostPid, 1);
    const asked: number[] = [];
    const driver: Pick<GpuDriver, 'processState'> = {
      processState: (pid) => {
        asked.push(pid);
        return Promise.resolve('running');
      },
    };

    const { reasons } = await discover(driver as GpuDriver, [{ ...found, entered: false }], new Set([hostPid]));

    expect(reasons).toEqual([expect.stringMatching(/does not tell the state of process \d+ \(sleep\): it is stopped/)]);
    expect(asked).toEqual([]);
  } finally {
    child.kill('SIGKILL');
  }
});

test('a process that ends in the middle has nothing', async () => {
  const driver: Pick<GpuDriver, 'processState'> = { processState: () => Promise.reject(new Error('304')) };

  expect(await discover(driver as GpuDriver, [process(0x7fffffff, 1)], new Set([0x7fffffff]))).toEqual({
    cuda: [],
    children: [],
    reasons: [],
  });
});

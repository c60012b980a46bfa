import { expect, test } from 'vitest';
import { SAVE_OVERHEAD_BYTES } from '../../core/gpu/process-state.ts';
import type { GpuDevice } from '../../native/cuda/gpu-driver.ts';
import { type GateFacts, gateReasons, type GateProcess, restoreEstimateMs, saveBytes } from './gates.ts';

const GIB = 1024 ** 3;
const A = 'GPU-aaaaaaaa-0000-0000-0000-000000000000';
const B = 'GPU-bbbbbbbb-0000-0000-0000-000000000000';

function device(uuid: string, minor: number, more: Partial<GpuDevice> = {}): GpuDevice {
  const memory = { memoryTotalBytes: 80 * GIB, memoryFreeBytes: 70 * GIB };
  return { uuid, minor, index: minor, name: 'H100', computeCapability: '9.0', mig: false, ...memory, ...more };
}

type Traces = GateProcess['traces'];

const NO_TRACES: Traces = {
  fdsByMinor: new Map([[0, 23]]),
  deviceFds: 29,
  deviceMappings: 31,
  cudaIpc: false,
  ncclLoaded: false,
  ncclSharedMemory: false,
  ncclP2pDisabled: false,
  mps: false,
};

function process(traces: Partial<Traces> = {}, more: Partial<GateProcess> = {}): GateProcess {
  return {
    hostPid: 71,
    nsPid: 7,
    startTime: 1,
    command: 'python3',
    vramBytes: 4 * GIB,
    devices: [A],
    visible: [A],
    rehearsed: false,
    traces: { ...NO_TRACES, ...traces },
    ...more,
  };
}

function facts(more: Partial<GateFacts> = {}): GateFacts {
  return {
    processes: [process()],
    children: [],
    devices: [device(A, 0), device(B, 1)],
    inUse: [{ hostPid: 71, uuid: A, usedBytes: 4 * GIB }],
    ownHostPids: new Set([71]),
    nameOf: (hostPid) => `process ${hostPid} (other)`,
    options: { allowShared: false, assumeSafe: false },
    rehearsal: false,
    canScrub: true,
    arch: 'x64',
    availableMemoryBytes: 64 * GIB,
    reservedMemoryBytes: 0,
    reservedVram: new Map(),
    freezeBudgetMs: 60_000,
    ...more,
  };
}

const TWO_GPUS = new Map([
  [0, 23],
  [1, 7],
]);
const TWO_CONTEXTS = new Map([
  [0, 23],
  [1, 23],
]);
const CHILD = { hostPid: 72, nsPid: 8, startTime: 2, command: 'loader' };

test('a plain GPU process passes', () => {
  expect(gateReasons(facts())).toEqual({ unsupported: [], refusals: [], warnings: [] });
});

test.each<[string, Partial<GateFacts>, RegExp]>([
  ['a partitioned GPU', { devices: [device(A, 0, { mig: true })] }, /GPU 0 .*partitioned \(MIG\).*use a whole GPU/],
  ['the Multi-Process Service', { processes: [process({ mps: true })] }, /71 \(python3\).*Multi-Process.*end/],
  ['CUDA IPC', { processes: [process({ cudaIpc: true })] }, /CUDA IPC.*host memory instead/],
  [
    'NCCL over P2P',
    { processes: [process({ fdsByMinor: TWO_GPUS, ncclLoaded: true })] },
    /seems to run NCCL over P2P.*NCCL_P2P_DISABLE=1/,
  ],
  [
    'contexts on two GPUs',
    { processes: [process({ fdsByMinor: TWO_CONTEXTS })] },
    /contexts on GPUs 0, 1.*gpu rehearse.*gpu-assume-safe/,
  ],
  ['a forked child elsewhere', { children: [CHILD], canScrub: false, arch: 'arm64' }, /72 \(loader\).*not on arm64/],
])('the driver cannot save: %s', (_title, more, reason) => {
  expect(gateReasons(facts(more))).toEqual({
    unsupported: [expect.stringMatching(reason)],
    refusals: [],
    warnings: [],
  });
});

test.each<[string, Partial<GateFacts>, RegExp]>([
  [
    'a neighbour on the GPU',
    { inUse: [{ hostPid: 99, uuid: A, usedBytes: 5 }] },
    /GPU 0 .*also used by process 99 \(other\).*5 bytes.*gpu.allowShared/,
  ],
  ['too little host memory', { availableMemoryBytes: 4 * GIB }, /memory left, the GPU memory needs \d+/],
  [
    'host memory that others were promised',
    { reservedMemoryBytes: 62 * GIB },
    new RegExp(`${2 * GIB} bytes of memory left \\(${62 * GIB} are promised`),
  ],
  [
    'GPU memory that others were promised',
    { reservedVram: new Map([[A, 71 * GIB]]) },
    /GPU 0 .*are promised to other operations.*try again/,
  ],
  [
    'a budget below the way back',
    { freezeBudgetMs: 3000 },
    /budget of 3000 ms is less than the \d+ ms.*freezeBudgetMs/,
  ],
])('this node refuses: %s', (_title, more, reason) => {
  expect(gateReasons(facts(more))).toEqual({
    unsupported: [],
    refusals: [expect.stringMatching(reason)],
    warnings: [],
  });
});

test.each<[string, Partial<GateFacts>]>([
  [
    'NCCL over shared memory',
    { processes: [process({ fdsByMinor: TWO_GPUS, ncclLoaded: true, ncclSharedMemory: true })] },
  ],
  ['NCCL with P2P off', { processes: [process({ fdsByMinor: TWO_GPUS, ncclLoaded: true, ncclP2pDisabled: true })] }],
  ['NCCL on one GPU', { processes: [process({ ncclLoaded: true })] }],
  [
    'a rehearsed process with two contexts',
    { processes: [process({ fdsByMinor: TWO_CONTEXTS }, { rehearsed: true })] },
  ],
  ['a child that can be scrubbed', { children: [CHILD] }],
  ['a neighbour on another GPU', { inUse: [{ hostPid: 99, uuid: B, usedBytes: 5 }] }],
  ['a partitioned GPU that it cannot see', { devices: [device(A, 0), device(B, 1, { mig: true })] }],
  ['promised memory of another GPU', { reservedVram: new Map([[B, 71 * GIB]]) }],
])('no reason: %s', (_title, more) => {
  expect(gateReasons(facts(more))).toEqual({ unsupported: [], refusals: [], warnings: [] });
});

test.each<[string, Partial<GateFacts>]>([
  ['a rehearsal', { rehearsal: true }],
  ['who vouches', { options: { allowShared: false, assumeSafe: true } }],
])('%s turns what cannot be seen into a warning, and nothing else', (_title, more) => {
  const processes = [process({ fdsByMinor: TWO_CONTEXTS, ncclLoaded: true, cudaIpc: true })];

  const { unsupported, warnings } = gateReasons(facts({ processes, ...more }));

  expect(unsupported).toEqual([expect.stringMatching(/CUDA IPC/)]);
  expect(warnings).toEqual([expect.stringMatching(/NCCL over P2P/), expect.stringMatching(/contexts on GPUs/)]);
});

test('an allowed neighbour is a warning', () => {
  const { refusals, warnings } = gateReasons(
    facts({
      inUse: [{ hostPid: 99, uuid: A, usedBytes: 5 }],
      options: { allowShared: true, assumeSafe: false },
    }),
  );

  expect(refusals).toEqual([]);
  expect(warnings).toEqual([expect.stringMatching(/process 99.*may take the memory before the way back/)]);
});

test('a context whose memory nobody tells is a warning: no room was checked for it', () => {
  const { refusals, warnings } = gateReasons(
    facts({ processes: [process({}, { vramBytes: 0, devices: [] })], inUse: [] }),
  );

  expect(refusals).toEqual([]);
  expect(warnings).toEqual([expect.stringMatching(/NVML tells no memory of process 71 .*was not checked/)]);
  const without = process({ fdsByMinor: new Map([[0, 7]]) }, { vramBytes: 0, devices: [] });
  expect(gateReasons(facts({ processes: [without], inUse: [] })).warnings).toEqual([]);
});

test('all reasons are given at once', () => {
  const bad = facts({
    processes: [process({ mps: true, cudaIpc: true })],
    availableMemoryBytes: 0,
    freezeBudgetMs: 1,
  });

  expect(gateReasons(bad).unsupported).toHaveLength(2);
  expect(gateReasons(bad).refusals).toHaveLength(2);
});

test('the save takes the memory of the GPU and a fixed part for each process', () => {
  expect(saveBytes([process(), process()])).toBe(8 * GIB + 2 * SAVE_OVERHEAD_BYTES);
});

test('the way back is estimated by the largest process, since all go back at the same time', () => {
  expect(restoreEstimateMs([])).toBe(0);
  expect(restoreEstimateMs([process({}, { vramBytes: 20e9 })])).toBe(11_500);
  expect(restoreEstimateMs([process({}, { vramBytes: 20e9 }), process({}, { vramBytes: 20e9 })])).toBe(11_500);
  const eight = Array.from({ length: 8 }, () => process({}, { vramBytes: 20e9 }));
  expect(restoreEstimateMs(eight)).toBe(21_500);
});

import { expect, test } from 'vitest';
import { gpuTraces, tracesIn } from './process-facts.ts';

test('descriptors are counted by GPU, mappings and names tell what is used', () => {
  const found = tracesIn(
    ['/dev/nvidiactl', '/dev/nvidia0', '/dev/nvidia0', '/dev/nvidia12', '/dev/nvidia-uvm', '/dev/null'],
    ['/dev/nvidia0', '/dev/shm/cuda.shm.0.4d.1', '/usr/lib/libnccl.so.2.28.9', '/dev/shm/nccl-x7Yz', '[heap]'],
    ['PATH=/bin', 'NCCL_P2P_DISABLE=1', 'NCCL_CUMEM_HOST_ENABLE=0'],
  );

  expect(found).toEqual({
    fdsByMinor: new Map([
      [0, 2],
      [12, 1],
    ]),
    deviceFds: 5,
    deviceMappings: 1,
    cudaIpc: true,
    ncclLoaded: true,
    ncclSharedMemory: true,
    ncclP2pDisabled: true,
  });
});

test('names that only look alike are none', () => {
  expect(
    tracesIn(
      ['/tmp/dev/nvidia0', '/dev/nvidia0x'],
      ['/home/x/dev/shm/nccl-1', '/usr/lib/libnccl-net.so', '/tmp/cuda.shm.1'],
      ['NCCL_P2P_DISABLE=0', 'MY_NCCL_P2P_DISABLE=1'],
    ),
  ).toMatchObject({
    fdsByMinor: new Map(),
    cudaIpc: false,
    ncclLoaded: false,
    ncclSharedMemory: false,
    ncclP2pDisabled: false,
  });
});

test('a process without a GPU leaves no traces, one that has ended neither', () => {
  expect(gpuTraces(process.pid)).toMatchObject({ deviceFds: 0, deviceMappings: 0, mps: false });
  expect(gpuTraces(0x7fffffff)).toMatchObject({ deviceFds: 0, deviceMappings: 0, mps: false, program: '' });
});

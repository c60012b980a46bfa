/* What a checkpoint says about its GPU processes: the part of metadata.json, and cuda/state.json beside the images. */
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { GpuMemoryUse } from '../../native/cuda/gpu-driver.ts';
import type { OperationPlan } from '../operation.ts';

type GpuMetadata = Pick<Metadata, 'gpuProcesses' | 'gpu'>;

/** @param memory VRAM that the processes held when they were locked; the plan's figures count where it is silent */
export function gpuMetadata({ gpu }: Pick<OperationPlan, 'gpu'>, memory: readonly GpuMemoryUse[]): GpuMetadata {
  if (gpu.processes.length === 0) {
    return { gpuProcesses: [] };
  }
  const measured = memory.length > 0;
  return {
    gpuProcesses: gpu.processes.map(({ hostPid, nsPid, vramBytes, devices, visible }) => {
      const used = memory.filter((use) => use.hostPid === hostPid);
      return {
        hostPid,
        nsPid,
        vramBytes: used.length > 0 ? sum(used) : vramBytes,
        devices: [...(used.length > 0 ? new Set(used.map(({ uuid }) => uuid)) : devices)],
        visible: [...visible],
      };
    }),
    gpu: {
      driver: gpu.driver ?? 'unknown',
      devices: gpu.devices.map((device) => ({
        ...device,
        usedBytes: measured ? sum(memory.filter(({ uuid }) => uuid === device.uuid)) : device.usedBytes,
      })),
    },
  };
}

export function gpuStateFile(plan: Pick<OperationPlan, 'gpu'>, memory: readonly GpuMemoryUse[]): string {
  const { gpuProcesses, gpu } = gpuMetadata(plan, memory);
  const state = {
    version: 1,
    ...gpu,
    processes: gpuProcesses.map((process) => ({
      ...process,
      /** as the driver told it before the dump */
      state: 'checkpointed',
      memory: memory
        .filter(({ hostPid }) => hostPid === process.hostPid)
        .map(({ uuid, usedBytes }) => ({ uuid, usedBytes })),
    })),
  };
  return `${JSON.stringify(state, null, 1)}\n`;
}

function sum(memory: readonly GpuMemoryUse[]): number {
  return memory.reduce((total, { usedBytes }) => total + usedBytes, 0);
}

/* What the plan of an operation says about GPUs; plain JSON, since it travels to the runner in plan.json. */
import type { WorkloadHook } from '../../core/contract/gpu.ts';

export interface GpuProcess {
  readonly hostPid: number;
  readonly nsPid: number;
  /** clock ticks since boot: tells it from a later process of the same pid */
  readonly startTime: number;
  readonly command: string;
  readonly vramBytes: number;
  /** UUIDs of the devices on which it holds VRAM */
  readonly devices: readonly string[];
  /** UUIDs of all that it can see, by minor */
  readonly visible: readonly string[];
}

/** Forked from a CUDA process: holds its device descriptors and mappings, and cannot use them. */
export interface ForkedChild {
  readonly hostPid: number;
  readonly nsPid: number;
  readonly startTime: number;
  readonly command: string;
}

export interface GpuDeviceFacts {
  readonly uuid: string;
  readonly name: string;
  readonly minor: number;
  readonly memoryTotalBytes: number;
  readonly computeCapability: string;
  /** VRAM that the container's processes hold on it */
  readonly usedBytes: number;
}

/** One memory limit that is raised before the save and put back after the unlock. */
export interface MemoryRaise {
  /** absolute path of the limit's file */
  readonly file: string;
  /** text of the file before: what is put back */
  readonly before: string;
  readonly after: string;
}

export interface GpuPlan {
  /** version of the kernel module; absent on a node without a driver */
  readonly driver?: string;
  /** root first */
  readonly processes: readonly GpuProcess[];
  readonly children: readonly ForkedChild[];
  /** every device that one of the processes can see, by minor */
  readonly devices: readonly GpuDeviceFacts[];
  readonly vramBytes: number;
  readonly lockTimeoutMs: number;
  readonly hugePages: boolean;
  readonly quiesce?: WorkloadHook;
  readonly resume?: WorkloadHook;
  /** outermost cgroup first */
  readonly memoryRaises: readonly MemoryRaise[];
  /** host memory that the save will take, counted against what is free until the operation has ended */
  readonly reservedMemoryBytes: number;
  /** what the restore, the source's own included, will take at most: part of the freeze budget is kept for it */
  readonly estimatedRestoreMs: number;
}

export const NO_GPU: GpuPlan = {
  processes: [],
  children: [],
  devices: [],
  vramBytes: 0,
  lockTimeoutMs: 0,
  hugePages: false,
  memoryRaises: [],
  reservedMemoryBytes: 0,
  estimatedRestoreMs: 0,
};

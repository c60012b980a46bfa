/*
 * What the engine asks of the NVIDIA driver of a node. `openGpuDriver` (open.ts) stands behind it: libcuda for the
 * checkpoint calls, NVML for devices and memory. The checkpoint calls need no context, no cuInit and no device nodes,
 * only the right to trace the process. All pids are host pids.
 */
import type { GpuPair } from '../../core/gpu/device-map.ts';
import type { GpuProcessState } from '../../core/gpu/process-state.ts';

export interface GpuDevice {
  /** `GPU-8-4-4-4-12` */
  readonly uuid: string;
  readonly name: string;
  /** of `/dev/nvidia<minor>` */
  readonly minor: number;
  /** as nvidia-smi shows it, by place on the PCI bus; minors may be in another order */
  readonly index: number;
  readonly memoryTotalBytes: number;
  readonly memoryFreeBytes: number;
  /** `9.0` */
  readonly computeCapability: string;
  readonly mig: boolean;
}

/** VRAM that one process holds on one device. */
export interface GpuMemoryUse {
  readonly hostPid: number;
  readonly uuid: string;
  readonly usedBytes: number;
}

/**
 * Every call ends by its deadline with `CudaTimeout`; the driver's own call cannot be interrupted and may still be done
 * later. Every error of the driver is a `CudaError` with its code. Source: cuda.h, driver API 12.8 (13.0 for the map).
 */
export interface GpuDriver {
  /** of the kernel module, `580.159.04` */
  readonly version: string;
  /** of the driver API, 13000 for 13.0 */
  readonly apiVersion: number;
  /** by minor */
  devices(): readonly GpuDevice[];
  memoryInUse(): readonly GpuMemoryUse[];
  /** `none`: not a CUDA process. Waits while the driver saves or restores the process. */
  processState(hostPid: number, deadlineMs: number): Promise<GpuProcessState | 'none'>;
  /**
   * running → locked: no new work begins, work under way is waited for.
   * @param timeoutMs 600 CUDA_ERROR_NOT_READY after it, the process unharmed; bounds the acquisition only
   */
  lock(hostPid: number, timeoutMs: number, deadlineMs: number): Promise<void>;
  /** Is a lock of this process under way, also one that was given up at its deadline? It may still take hold. */
  lockPending(hostPid: number): boolean;
  /** locked → checkpointed: VRAM goes to host memory of the process. */
  checkpoint(hostPid: number, deadlineMs: number): Promise<void>;
  /** checkpointed → locked. @param pairs every GPU that the process could see, or none for the same devices */
  restore(hostPid: number, pairs: readonly GpuPair[], deadlineMs: number): Promise<void>;
  /** locked → running */
  unlock(hostPid: number, deadlineMs: number): Promise<void>;
}

/** A node without a driver works and says so. */
export type GpuDriverOrNot = { readonly driver: GpuDriver } | { readonly driver?: undefined; readonly reason: string };

/*
 * The driver of this node, or why there is none. Nothing is loaded before the first call, and what was found is kept: a
 * GPU operation pays for it once in the life of a worker. Not found is looked for again, since a driver may be installed
 * or its module loaded while the worker runs.
 */
import { loadNvml } from '../nvml/bindings.ts';
import { openNvml } from '../nvml/nvml.ts';
import { loadCuda } from './bindings.ts';
import { CUDA } from './codes.ts';
import type { GpuDriver, GpuDriverOrNot } from './gpu-driver.ts';
import { processCalls } from './process.ts';

export interface GpuLibraries {
  /** `libcuda.so.1`, or an absolute path */
  readonly cudaLibrary: string;
  /** `libnvidia-ml.so.1`, or an absolute path */
  readonly nvmlLibrary: string;
}

const opened = new Map<string, GpuDriver>();

/** Takes some ten milliseconds when there is a driver: NVML opens the device files. Never throws for want of one. */
export function openGpuDriver(libraries: GpuLibraries): GpuDriverOrNot {
  const key = JSON.stringify([libraries.cudaLibrary, libraries.nvmlLibrary]);
  const driver = opened.get(key);
  if (driver !== undefined) {
    return { driver };
  }
  const found = open(libraries);
  if (found.driver !== undefined) {
    opened.set(key, found.driver);
  }
  return found;
}

function open({ cudaLibrary, nvmlLibrary }: GpuLibraries): GpuDriverOrNot {
  const cuda = loadCuda(cudaLibrary);
  if (cuda.bindings === undefined) {
    return { reason: cuda.reason };
  }
  const version = cuda.bindings.driverVersion();
  if (version.code !== CUDA.SUCCESS) {
    return { reason: `cuDriverGetVersion returned ${version.code} (${cuda.bindings.errorName(version.code) ?? '?'})` };
  }
  const loaded = loadNvml(nvmlLibrary);
  if (loaded.bindings === undefined) {
    return { reason: loaded.reason };
  }
  const found = openNvml(loaded.bindings);
  if (!('nvml' in found)) {
    return { reason: found.reason };
  }
  const { nvml } = found;
  return {
    driver: {
      version: nvml.driverVersion,
      apiVersion: version.value,
      devices: nvml.devices,
      memoryInUse: nvml.memoryInUse,
      ...processCalls(cuda.bindings, version.value),
    },
  };
}

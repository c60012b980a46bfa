/* Devices of the node and who uses their memory. Initialised at the first use, kept for the life of the process. */
import type { GpuDevice, GpuMemoryUse } from '../cuda/gpu-driver.ts';
import { NVML } from './abi.ts';
import type { NvmlBindings, NvmlDevice } from './bindings.ts';

export interface Nvml {
  readonly driverVersion: string;
  /** by minor; read anew each time */
  readonly devices: () => readonly GpuDevice[];
  readonly memoryInUse: () => readonly GpuMemoryUse[];
}

export type NvmlOrNot = { readonly nvml: Nvml; readonly reason?: undefined } | { readonly reason: string };

/** @returns why not, when the kernel module is not loaded or does not fit the library */
export function openNvml(bindings: NvmlBindings): NvmlOrNot {
  const code = bindings.init();
  if (code !== NVML.SUCCESS) {
    const hint = code === NVML.DRIVER_NOT_LOADED ? '; load the kernel module nvidia, or run on a node with a GPU' : '';
    return { reason: `nvmlInit_v2 returned ${code} (${bindings.errorText(code)})${hint}` };
  }
  const driverVersion = bindings.driverVersion();
  // Handles and what cannot change stay; memory is asked for each time.
  let known: ReadonlyArray<{ readonly device: NvmlDevice; readonly fixed: Fixed }> | undefined;
  const handles = (): NonNullable<typeof known> => (known ??= findDevices(bindings));
  return {
    nvml: {
      driverVersion,
      devices: () =>
        handles().map(({ device, fixed }) => {
          const { totalBytes, freeBytes } = bindings.memory(device);
          return {
            ...fixed,
            memoryTotalBytes: totalBytes,
            memoryFreeBytes: freeBytes,
            mig: bindings.migEnabled(device),
          };
        }),
      memoryInUse: () =>
        handles().flatMap(({ device, fixed }) =>
          [...bindings.processes(device)].map(([hostPid, usedBytes]) => ({ hostPid, uuid: fixed.uuid, usedBytes })),
        ),
    },
  };
}

type Fixed = Pick<GpuDevice, 'uuid' | 'name' | 'minor' | 'index' | 'computeCapability'>;

function findDevices(bindings: NvmlBindings): Array<{ readonly device: NvmlDevice; readonly fixed: Fixed }> {
  return Array.from({ length: bindings.deviceCount() }, (_, index) => {
    const device = bindings.device(index);
    return {
      device,
      fixed: {
        uuid: bindings.uuid(device),
        name: bindings.name(device),
        minor: bindings.minor(device),
        index,
        computeCapability: bindings.computeCapability(device),
      },
    };
  }).sort((left, right) => left.fixed.minor - right.fixed.minor);
}

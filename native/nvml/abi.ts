/*
 * What we use of NVML, as nvml.h (12 and 13) spells it. koffi names begin with KybNvml; sizes are checked by
 * native/verify/nvml-probe.c where the header exists.
 */
import koffi from 'koffi';

/** nvml.h, nvmlReturn_t: those that we treat apart */
export const NVML = {
  SUCCESS: 0,
  NOT_SUPPORTED: 3,
  INSUFFICIENT_SIZE: 7,
  DRIVER_NOT_LOADED: 9,
} as const;

/** NVML_DEVICE_UUID_V2_BUFFER_SIZE and the longest of the name and version buffers */
export const TEXT_BYTES = 96;

/** NVML_VALUE_NOT_AVAILABLE: the driver does not tell (inside a container, for example) */
export const VALUE_NOT_AVAILABLE = 2n ** 64n - 1n;

/**
 * Bytes on 64-bit Linux. nvmlMemory_t: total, free, used. nvmlProcessInfo_t of `_v3`: pid, (4 unused), usedGpuMemory,
 * gpuInstanceId, computeInstanceId.
 */
export const NVML_LAYOUT = {
  nvmlMemory_t: { size: 24, total: 0, free: 8, used: 16 },
  nvmlProcessInfo_t: { size: 24, pid: 0, usedGpuMemory: 8, gpuInstanceId: 16, computeInstanceId: 20 },
} as const satisfies Record<string, Readonly<Record<string, number>>>;

let registered = false;

export function registerNvmlTypes(): void {
  if (registered) {
    return;
  }
  registered = true;
  koffi.opaque('KybNvmlDevice');
  koffi.struct('KybNvmlMemory_t', { total: 'uint64_t', free: 'uint64_t', used: 'uint64_t' });
}

/** Bytes of one field of an array of nvmlProcessInfo_t; read by hand, since the array is as long as the driver says. */
export function processInfoAt(infos: Uint8Array, index: number): { readonly pid: number; readonly usedBytes: bigint } {
  const { size, pid, usedGpuMemory } = NVML_LAYOUT.nvmlProcessInfo_t;
  const view = new DataView(infos.buffer, infos.byteOffset + index * size, size);
  return { pid: view.getUint32(pid, true), usedBytes: view.getBigUint64(usedGpuMemory, true) };
}

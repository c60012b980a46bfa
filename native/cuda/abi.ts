/*
 * What we use of the CUDA driver API, as cuda.h spells it. The checkpoint calls exist since 12.8 (driver 570), the map of
 * devices at a restore since 13.0 (driver 580), where it took reserved bytes of the same 64; older drivers want them zero.
 * native/verify/abi-probe.c prints the same numbers from a cuda.h; a test compares.
 */
import koffi from 'koffi';

/** cuda.h, CUdevice_attribute */
export const ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75;
export const ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76;

/**
 * Sizes and offsets in bytes on 64-bit Linux. Source: cuda.h 12.8 and 13.0, section "CUDA checkpoint"; the last two
 * fields of the restore arguments are 13.0's (12.8: 64 reserved bytes).
 */
export const LAYOUT = {
  CUuuid: { size: 16 },
  CUcheckpointLockArgs: { size: 64, timeoutMs: 0, reserved0: 4, reserved1: 8 },
  CUcheckpointCheckpointArgs: { size: 64, reserved: 0 },
  CUcheckpointGpuPair: { size: 32, oldUuid: 0, newUuid: 16 },
  CUcheckpointRestoreArgs: { size: 64, gpuPairs: 0, gpuPairsCount: 8, reserved: 12, reserved1: 56 },
  CUcheckpointUnlockArgs: { size: 64, reserved: 0 },
} as const satisfies Record<string, Readonly<Record<string, number>>>;

let registered = false;

/** Registers the structures with koffi, whose names are one space for the whole process. */
export function registerCudaTypes(): void {
  if (registered) {
    return;
  }
  registered = true;
  koffi.struct('KybCUuuid', { bytes: koffi.array('uint8_t', 16) });
  koffi.struct('KybCUcheckpointLockArgs', {
    timeoutMs: 'uint',
    reserved0: 'uint',
    reserved1: koffi.array('uint64_t', 7),
  });
  koffi.struct('KybCUcheckpointCheckpointArgs', { reserved: koffi.array('uint64_t', 8) });
  koffi.struct('KybCUcheckpointGpuPair', { oldUuid: 'KybCUuuid', newUuid: 'KybCUuuid' });
  koffi.struct('KybCUcheckpointRestoreArgs', {
    gpuPairs: koffi.pointer('KybCUcheckpointGpuPair'),
    gpuPairsCount: 'uint',
    reserved: koffi.array('uint8_t', 44),
    reserved1: 'uint64_t',
  });
  koffi.struct('KybCUcheckpointUnlockArgs', { reserved: koffi.array('uint64_t', 8) });
}

/** The same numbers as LAYOUT from what koffi made of the structures. */
export function registeredLayout(): Record<string, Record<string, number>> {
  registerCudaTypes();
  return Object.fromEntries(
    Object.entries(LAYOUT).map(([name, fields]) => {
      const offsets = Object.keys(fields).filter((field) => field !== 'size');
      return [
        name,
        {
          size: koffi.sizeof(`Kyb${name}`),
          ...Object.fromEntries(offsets.map((field) => [field, koffi.offsetof(`Kyb${name}`, field)])),
        },
      ];
    }),
  );
}

/*
 * Numbers of cuda.h that mean something to those who make the calls, too. No library is loaded for them.
 * native/verify/abi-probe.c prints the same from a cuda.h; a test compares.
 */

/** cuda.h, CUresult: those that we treat apart. Their names come from cuGetErrorName. */
export const CUDA = {
  SUCCESS: 0,
  INVALID_VALUE: 1,
  OUT_OF_MEMORY: 2,
  /** for a process: it has no CUDA state */
  NOT_INITIALIZED: 3,
  NO_DEVICE: 100,
  /** the process is gone, or we may not trace it */
  OPERATING_SYSTEM: 304,
  /** the process is not in the state that the call starts from */
  ILLEGAL_STATE: 401,
  /** the timeout of a lock is over */
  NOT_READY: 600,
  NOT_SUPPORTED: 801,
} as const;

/** The driver API that knows the map of devices (CUDA_VERSION of cuda.h 13.0). */
export const DEVICE_MAP_API_VERSION = 13_000;

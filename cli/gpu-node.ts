/* The GPU driver of this machine for the commands that act on it directly, without Temporal and without a worker. */
import { KybernateError } from '../core/errors.ts';
import { loadCuda, type CudaBindings } from '../native/cuda/bindings.ts';
import { CUDA } from '../native/cuda/codes.ts';
import { CudaError, CudaTimeout } from '../native/cuda/error.ts';
import type { GpuDriver } from '../native/cuda/gpu-driver.ts';
import { openGpuDriver, type GpuLibraries } from '../native/cuda/open.ts';
import type { Environment } from './config.ts';

/** From the variables that the workers read, too; a variable set to nothing counts as not set. */
export function gpuLibraries(env: Environment): GpuLibraries {
  return {
    cudaLibrary: env['KYBERNATE_LIBCUDA'] || 'libcuda.so.1',
    nvmlLibrary: env['KYBERNATE_LIBNVML'] || 'libnvidia-ml.so.1',
  };
}

/** @throws GpuUnsupported when this machine has no driver that can checkpoint */
export function requireGpuDriver(env: Environment): GpuDriver {
  const { driver, reason } = { reason: '', ...openGpuDriver(gpuLibraries(env)) };
  if (driver === undefined) {
    throw new KybernateError('GpuUnsupported', `this node has no GPU that can be used: ${reason}`, {
      details: {
        remedy:
          'install the NVIDIA driver (570 or newer), or name its libraries by KYBERNATE_LIBCUDA and KYBERNATE_LIBNVML',
      },
    });
  }
  return driver;
}

/** For the one call that `GpuDriver` does not have. */
export function cudaBindings(env: Environment): CudaBindings | undefined {
  return loadCuda(gpuLibraries(env).cudaLibrary).bindings;
}

const MEANING = {
  [CUDA.OUT_OF_MEMORY]: 'GpuOutOfMemory',
  [CUDA.NOT_READY]: 'GpuBusy',
  [CUDA.NOT_SUPPORTED]: 'GpuUnsupported',
} as const;

/** What a driver call that failed means to somebody who asked for it by hand. */
export function asKybernateError(error: unknown, otherwise: 'DumpFailed' | 'RestoreFailed'): unknown {
  const details = { remedy: 'the process that was tested has been ended; look for errors of the GPU in dmesg' };
  if (error instanceof CudaTimeout) {
    return new KybernateError(otherwise, error.message, { cause: error, details });
  }
  if (!(error instanceof CudaError)) {
    return error;
  }
  const type = Object.hasOwn(MEANING, error.code) ? MEANING[error.code as keyof typeof MEANING] : otherwise;
  const known = type === otherwise ? details : {};
  return new KybernateError(type, error.message, { cause: error, details: { ...known, code: error.code } });
}

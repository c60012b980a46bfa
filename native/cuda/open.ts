import type { GpuDriverOrNot } from './gpu-driver.ts';

/** The driver of this node, or why there is none. */
export function openGpuDriver(_libraries: {
  readonly cudaLibrary: string;
  readonly nvmlLibrary: string;
}): GpuDriverOrNot {
  return { reason: 'the NVIDIA driver is not looked for yet' };
}

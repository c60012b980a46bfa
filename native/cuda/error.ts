/* What a call of the driver fails with. The engine gives these a meaning (GpuBusy, GpuOutOfMemory, ...). */
import { existsSync } from 'node:fs';

export interface CudaFailure {
  /** `cuCheckpointProcessLock` */
  readonly call: string;
  /** CUresult */
  readonly code: number;
  /** from the driver: `CUDA_ERROR_NOT_READY` */
  readonly name: string;
  /** absent: a call that is not about a process */
  readonly hostPid?: number;
  /** the process had ended when the call came back */
  readonly gone?: boolean;
}

/** `name` is the driver's word for the code. */
export class CudaError extends Error {
  readonly call: string;
  readonly code: number;
  readonly hostPid: number | undefined;
  readonly gone: boolean;

  constructor(failure: CudaFailure) {
    const of = failure.hostPid === undefined ? '' : ` of pid ${failure.hostPid}`;
    const gone = failure.gone === true ? '; the process is gone' : '';
    super(`${failure.call}${of} returned ${failure.code} (${failure.name})${gone}`);
    this.name = failure.name;
    this.call = failure.call;
    this.code = failure.code;
    this.hostPid = failure.hostPid;
    this.gone = failure.gone === true;
  }
}

/** The call goes on in the driver and may still be done: read the state of the process again. */
export class CudaTimeout extends Error {
  readonly call: string;
  readonly hostPid: number | undefined;
  readonly deadlineMs: number;

  constructor(call: string, hostPid: number | undefined, deadlineMs: number) {
    const of = hostPid === undefined ? '' : ` of pid ${hostPid}`;
    super(`${call}${of} did not return within ${deadlineMs} ms; the driver still works on it`);
    this.name = 'CudaTimeout';
    this.call = call;
    this.hostPid = hostPid;
    this.deadlineMs = deadlineMs;
  }
}

export function isCudaError(error: unknown, code?: number): error is CudaError {
  return error instanceof CudaError && (code === undefined || error.code === code);
}

/** @returns whether the process has ended; a zombie is still there */
export function isGone(hostPid: number): boolean {
  return !existsSync(`/proc/${hostPid}`);
}

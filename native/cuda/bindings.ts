/*
 * libcuda.so.1 through koffi: what the driver installs, no toolkit. Every call returns its CUresult.
 *
 * Calls on another process may take seconds, so they run on libuv's pool (`.async`). That pool has 4 threads by default,
 * which all file access of the process shares: a process that makes such calls is started with UV_THREADPOOL_SIZE
 * (the runner by its launcher, the workers in cli/main.ts). A call that hangs cannot be ended: native/exit-now.ts.
 */
import { messageOf } from '../../core/errors.ts';
import { beginCall } from '../exit-now.ts';
import { loadLibrary } from '../load-library.ts';
import { registerCudaTypes } from './abi.ts';

export interface CudaCall<T> {
  readonly code: number;
  readonly value: T;
}

/** A pair of the map, each UUID in its 16 bytes. */
export interface UuidPair {
  readonly oldUuid: Uint8Array;
  readonly newUuid: Uint8Array;
}

/** The checkpoint calls. They need neither cuInit nor a context nor device nodes, only the right to trace the process. */
export interface CudaBindings {
  /** undefined for a code that this driver does not know */
  readonly errorName: (code: number) => string | undefined;
  /** CUDA_VERSION that the driver supports, 13000 for 13.0 */
  readonly driverVersion: () => CudaCall<number>;
  readonly getState: (pid: number) => Promise<CudaCall<number>>;
  readonly getRestoreThreadId: (pid: number) => Promise<CudaCall<number>>;
  readonly lock: (pid: number, timeoutMs: number) => Promise<number>;
  readonly checkpoint: (pid: number) => Promise<number>;
  /** @param pairs none: no map is given */
  readonly restore: (pid: number, pairs: readonly UuidPair[]) => Promise<number>;
  readonly unlock: (pid: number) => Promise<number>;
}

/** A function of the library; koffi's own type is `any`. */
type Native = ((...args: unknown[]) => number) & { readonly async: (...args: unknown[]) => void };

/** Finds functions of one library; throws for one that it lacks. */
export interface CudaLibrary {
  readonly func: (prototype: string) => Native;
}

/** @throws when the file is not there or is no library, with the text of the dynamic loader */
export function openCudaLibrary(path: string): CudaLibrary {
  const lib = loadLibrary(path);
  return { func: (prototype) => lib.func(prototype) as Native };
}

export type CudaBindingsOrNot =
  | { readonly bindings: CudaBindings; readonly reason?: undefined }
  | { readonly bindings?: undefined; readonly reason: string };

/** @param path a soname, which the dynamic loader looks up, or an absolute path */
export function loadCuda(path: string): CudaBindingsOrNot {
  registerCudaTypes();
  let library: CudaLibrary;
  try {
    library = openCudaLibrary(path);
  } catch (error) {
    // dlopen has one way to fail, and its text names the file and what is wrong.
    return { reason: `no NVIDIA driver: ${path}: ${messageOf(error)}` };
  }
  try {
    return { bindings: bind(library) };
  } catch (error) {
    const missing = messageOf(error);
    return { reason: `the NVIDIA driver cannot checkpoint, which needs driver 570 or newer: ${path}: ${missing}` };
  }
}

function bind(library: CudaLibrary): CudaBindings {
  const errorName = library.func('int cuGetErrorName(int error, _Out_ const char **name)');
  const driverVersion = library.func('int cuDriverGetVersion(_Out_ int *version)');
  const getState = library.func('int cuCheckpointProcessGetState(int pid, _Out_ int *state)');
  const getThread = library.func('int cuCheckpointProcessGetRestoreThreadId(int pid, _Out_ int *tid)');
  const lock = library.func('int cuCheckpointProcessLock(int pid, KybCUcheckpointLockArgs *args)');
  const checkpoint = library.func('int cuCheckpointProcessCheckpoint(int pid, KybCUcheckpointCheckpointArgs *args)');
  const restore = library.func('int cuCheckpointProcessRestore(int pid, KybCUcheckpointRestoreArgs *args)');
  const unlock = library.func('int cuCheckpointProcessUnlock(int pid, KybCUcheckpointUnlockArgs *args)');
  return {
    errorName: (code) => {
      const name: Array<string | null> = [null];
      return errorName(code, name) === 0 ? (name[0] ?? undefined) : undefined;
    },
    driverVersion: () => {
      const version = [0];
      return { code: driverVersion(version), value: version[0] ?? 0 };
    },
    getState: (pid) => withNumber(getState, pid),
    getRestoreThreadId: (pid) => withNumber(getThread, pid),
    lock: (pid, timeoutMs) => callAsync(lock, pid, { timeoutMs, reserved0: 0, reserved1: zeros(7) }),
    checkpoint: (pid) => callAsync(checkpoint, pid, { reserved: zeros(8) }),
    restore: (pid, pairs) =>
      callAsync(restore, pid, {
        gpuPairs:
          pairs.length === 0
            ? null
            : pairs.map(({ oldUuid, newUuid }) => ({ oldUuid: { bytes: oldUuid }, newUuid: { bytes: newUuid } })),
        gpuPairsCount: pairs.length,
        reserved: new Uint8Array(44),
        reserved1: 0,
      }),
    unlock: (pid) => callAsync(unlock, pid, { reserved: zeros(8) }),
  };
}

/** The headers want reserved fields zeroed. */
function zeros(count: number): number[] {
  return Array.from({ length: count }, () => 0);
}

async function withNumber(native: Native, pid: number): Promise<CudaCall<number>> {
  const out = [0];
  const code = await callAsync(native, pid, out);
  return { code, value: out[0] ?? 0 };
}

/** Runs a function of the library on a thread of libuv's pool. Arguments are kept until it returns. */
function callAsync(native: Native, ...args: unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const end = beginCall();
    const done = (error: unknown, code: number): void => {
      end();
      if (error === null || error === undefined) {
        resolve(code);
      } else {
        reject(error instanceof Error ? error : new Error('koffi refused the call', { cause: error }));
      }
    };
    try {
      native.async(...args, done);
    } catch (error) {
      // koffi refuses arguments that do not fit, or more calls at once than it has room for.
      done(error, 0);
    }
  });
}

/* The states of other processes: the part of `GpuDriver` that moves them, with a deadline for every call. */
import type { GpuPair } from '../../core/gpu/device-map.ts';
import { GPU_PROCESS_STATES } from '../../core/gpu/process-state.ts';
import type { GpuProcessState } from '../../core/gpu/process-state.ts';
import type { CudaBindings } from './bindings.ts';
import { CUDA, DEVICE_MAP_API_VERSION } from './codes.ts';
import { CudaError, CudaTimeout, isGone } from './error.ts';
import type { GpuDriver } from './gpu-driver.ts';
import { uuidBytes } from './uuid.ts';

export type ProcessCalls = Pick<
  GpuDriver,
  'processState' | 'lock' | 'lockPending' | 'checkpoint' | 'restore' | 'unlock'
>;

/** @param apiVersion of the driver; one without a map takes only the identity */
export function processCalls(cuda: CudaBindings, apiVersion: number): ProcessCalls {
  /** those under way, with the pid of each */
  const locks = new Map<symbol, number>();
  function check(call: string, hostPid: number, code: number): void {
    if (code !== CUDA.SUCCESS) {
      const gone = code === CUDA.OPERATING_SYSTEM && isGone(hostPid);
      throw new CudaError({ call, code, hostPid, gone, name: cuda.errorName(code) ?? `code ${code}` });
    }
  }
  async function step(call: string, hostPid: number, deadlineMs: number, begin: () => Promise<number>): Promise<void> {
    check(call, hostPid, await withDeadline(call, hostPid, deadlineMs, begin));
  }
  return {
    processState: async (hostPid, deadlineMs) => {
      const call = 'cuCheckpointProcessGetState';
      const { code, value } = await withDeadline(call, hostPid, deadlineMs, () => cuda.getState(hostPid));
      if (code === CUDA.NOT_INITIALIZED) {
        return 'none';
      }
      check(call, hostPid, code);
      return stateOf(value);
    },
    lock: (hostPid, timeoutMs, deadlineMs) => {
      const call = Symbol('lock');
      locks.set(call, hostPid);
      return step('cuCheckpointProcessLock', hostPid, deadlineMs, () =>
        cuda.lock(hostPid, timeoutMs).finally(() => locks.delete(call)),
      );
    },
    lockPending: (hostPid) => [...locks.values()].includes(hostPid),
    checkpoint: (hostPid, deadlineMs) =>
      step('cuCheckpointProcessCheckpoint', hostPid, deadlineMs, () => cuda.checkpoint(hostPid)),
    restore: async (hostPid, pairs, deadlineMs) => {
      const needed = apiVersion >= DEVICE_MAP_API_VERSION ? pairs : withoutMap(hostPid, pairs);
      const bytes = needed.map(({ from, to }) => ({ oldUuid: uuidBytes(from), newUuid: uuidBytes(to) }));
      await step('cuCheckpointProcessRestore', hostPid, deadlineMs, () => cuda.restore(hostPid, bytes));
    },
    unlock: (hostPid, deadlineMs) => step('cuCheckpointProcessUnlock', hostPid, deadlineMs, () => cuda.unlock(hostPid)),
  };
}

/** An older driver reads the map as reserved bytes, which have to be zero. */
function withoutMap(hostPid: number, pairs: readonly GpuPair[]): readonly GpuPair[] {
  if (pairs.some(({ from, to }) => from !== to)) {
    const name = 'this driver cannot restore on another device, which needs driver 580';
    throw new CudaError({ call: 'cuCheckpointProcessRestore', code: CUDA.NOT_SUPPORTED, name, hostPid });
  }
  return [];
}

function stateOf(value: number): GpuProcessState {
  // A state that a later driver invents is none that we could go on from.
  return GPU_PROCESS_STATES[value] ?? 'failed';
}

/** The call goes on after the deadline; whatever comes of it is dropped, and the caller reads the state again. */
async function withDeadline<T>(
  call: string,
  hostPid: number | undefined,
  deadlineMs: number,
  begin: () => Promise<T>,
): Promise<T> {
  const started = begin();
  started.catch(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new CudaTimeout(call, hostPid, deadlineMs)), Math.min(deadlineMs, 0x7fffffff));
  });
  try {
    return await Promise.race([started, over]);
  } finally {
    clearTimeout(timer);
  }
}

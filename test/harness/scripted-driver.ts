/* A GPU driver of literals, for unit tests: states by host pid, and what a call does instead of its work. */
import { GPU_TRANSITIONS, type GpuProcessState, type GpuTransition } from '../../core/gpu/process-state.ts';
import { CudaError } from '../../native/cuda/error.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';

export interface ScriptedDriver extends GpuDriver {
  /** those not named run */
  readonly states: Map<number, GpuProcessState>;
  /** `lock 4711`, in order */
  readonly calls: string[];
  /** replaces the work of every such call: an error code, or something to wait for before it */
  readonly faults: Map<GpuTransition, number | Promise<void>>;
}

export function scriptedDriver(): ScriptedDriver {
  const states = new Map<number, GpuProcessState>();
  const calls: string[] = [];
  const faults: ScriptedDriver['faults'] = new Map();
  async function move(name: GpuTransition, hostPid: number): Promise<void> {
    calls.push(`${name} ${hostPid}`);
    const fault = faults.get(name);
    if (typeof fault === 'number') {
      throw new CudaError({ call: `cuCheckpointProcess ${name}`, code: fault, name: `code ${fault}`, hostPid });
    }
    await fault;
    states.set(hostPid, GPU_TRANSITIONS[name].to);
  }
  return {
    version: '580.0',
    apiVersion: 13_000,
    states,
    calls,
    faults,
    devices: () => [],
    memoryInUse: () => [],
    processState: (hostPid) => Promise.resolve(states.get(hostPid) ?? 'running'),
    lock: (hostPid) => move('lock', hostPid),
    lockPending: () => false,
    checkpoint: (hostPid) => move('checkpoint', hostPid),
    restore: (hostPid) => move('restore', hostPid),
    unlock: (hostPid) => move('unlock', hostPid),
  };
}

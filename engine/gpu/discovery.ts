/*
 * Who in the container holds CUDA state, by asking the driver for every process: names of files are hints only. What
 * holds devices without being known to the driver is a forked child, or a monitor that has to be ended first.
 */
import { messageOf } from '../../core/errors.ts';
import type { GpuProcessState } from '../../core/gpu/process-state.ts';
import { CudaTimeout, isGone } from '../../native/cuda/error.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { readProcess } from '../../native/proc/tree.ts';
import type { ProcessFacts } from '../container-facts.ts';
import { isStopped } from './driver-call.ts';
import { gpuTraces, type GpuTraces } from './process-facts.ts';

/** The driver answers in microseconds, unless it is saving the process right now. */
const STATE_MS = 2000;

export interface CudaProcess {
  readonly process: ProcessFacts;
  readonly traces: GpuTraces;
}

export interface Discovery {
  /** root first */
  readonly cuda: readonly CudaProcess[];
  readonly children: readonly ProcessFacts[];
  /** why these processes cannot be saved, each with what to do */
  readonly reasons: readonly string[];
}

export type ProbedState = GpuProcessState | 'none' | { readonly failed: string };

/**
 * Asks the driver about all processes at once.
 * @param tree root first, zombies and processes that came in by exec left out
 * @param holders those of them that hold devices
 */
export async function discover(
  driver: GpuDriver,
  tree: readonly ProcessFacts[],
  holders: ReadonlySet<number>,
): Promise<Discovery> {
  const states = await Promise.all(tree.map((process) => probe(driver, process, holders.has(process.hostPid))));
  const probed = tree.map((process, index) => ({ process, state: states[index] ?? 'none' }));
  const interesting = probed.filter(({ process, state }) => state !== 'none' || holders.has(process.hostPid));
  const traces = new Map(interesting.map(({ process }) => [process.hostPid, gpuTraces(process.hostPid)]));
  return classify(probed, traces);
}

async function probe(driver: GpuDriver, { hostPid, startTime }: ProcessFacts, holds: boolean): Promise<ProbedState> {
  if (holds && isStopped(hostPid)) {
    return { failed: 'it is stopped (SIGSTOP), and calls of the driver on a process that stands still do not return' };
  }
  try {
    return await driver.processState(hostPid, STATE_MS);
  } catch (error) {
    if (isGone(hostPid) || readProcess(hostPid)?.startTime !== startTime) {
      return 'none';
    }
    // A driver that is out of order must not keep programs from their checkpoint that have nothing to do with it.
    return holds || error instanceof CudaTimeout ? { failed: messageOf(error) } : 'none';
  }
}

/** @param traces of every process that has a state or holds devices, by host pid */
export function classify(
  probed: readonly { readonly process: ProcessFacts; readonly state: ProbedState }[],
  traces: ReadonlyMap<number, GpuTraces>,
): Discovery {
  const cuda: CudaProcess[] = [];
  const reasons: string[] = [];
  for (const { process, state } of probed) {
    const found = traces.get(process.hostPid);
    if (state !== 'none' && found !== undefined) {
      cuda.push({ process, traces: found });
      reasons.push(...stateReasons(process, state));
    }
  }
  const parents = new Map(probed.map(({ process }) => [process.hostPid, process.parentHostPid]));
  const children: ProcessFacts[] = [];
  for (const { process, state } of probed) {
    const found = traces.get(process.hostPid);
    if (state === 'none' && found !== undefined && found.deviceFds + found.deviceMappings > 0) {
      if (isForked(found, cuda, parents)) {
        children.push(process);
      } else {
        reasons.push(
          `${title(process)} has NVIDIA devices open without using CUDA (a monitor such as nvidia-smi -l), and CRIU ` +
            'cannot dump them: end it first, and run it outside of the container',
        );
      }
    }
  }
  return { cuda, children, reasons };
}

function title({ hostPid, command }: ProcessFacts): string {
  return `process ${hostPid} (${command})`;
}

function stateReasons(process: ProcessFacts, state: Exclude<ProbedState, 'none'>): string[] {
  if (state === 'running') {
    return [];
  }
  if (typeof state === 'object') {
    return [`the GPU driver does not tell the state of ${title(process)}: ${state.failed}; try again`];
  }
  return state === 'failed'
    ? [`the GPU driver has given up ${title(process)} (state failed): end it and start it again`]
    : [
        `${title(process)} is ${state} by somebody else already: unlock it first (cuda-checkpoint --toggle, or ` +
          '`kybernate doctor` for what an operation of ours left)',
      ];
}

/**
 * A fork that still runs the program of a CUDA process of the container: its descendant, or one whose parent has ended,
 * which then has the mappings that no monitor has. One that runs another program has use for what it opened.
 */
function isForked(traces: GpuTraces, cuda: readonly CudaProcess[], parents: ReadonlyMap<number, number>): boolean {
  const same = cuda.filter((one) => one.traces.program !== '' && one.traces.program === traces.program);
  const ancestors = ancestorsOf(traces.hostPid, parents);
  return same.some((one) => ancestors.has(one.process.hostPid)) || (same.length > 0 && traces.deviceMappings > 0);
}

function ancestorsOf(hostPid: number, parents: ReadonlyMap<number, number>): ReadonlySet<number> {
  const found = new Set<number>();
  for (let parent = parents.get(hostPid); parent !== undefined && !found.has(parent); parent = parents.get(parent)) {
    found.add(parent);
  }
  return found;
}

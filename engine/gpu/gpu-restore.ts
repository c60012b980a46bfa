/*
 * The GPU part of a restore: `runc restore` has brought the processes back with their VRAM in host memory, all of them
 * checkpointed for the driver. Their devices are made, the VRAM goes back, and the unlock comes last: until then every
 * CUDA call of theirs waits. Nothing here is undone: a container of which a part did not come back is ended by the
 * runtime's wrapper, and the images restore again.
 */
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { GpuRestoreFacts } from '../../core/contract/restore.ts';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { type GpuPair, driverPairs } from '../../core/gpu/device-map.ts';
import type { GpuProcessState } from '../../core/gpu/process-state.ts';
import { CUDA } from '../../native/cuda/codes.ts';
import { isCudaError } from '../../native/cuda/error.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { cgroupPids, freezerCgroup } from '../../native/proc/cgroup.ts';
import { readProcLink } from '../../native/proc/read.ts';
import { processTree, readProcess } from '../../native/proc/tree.ts';
import type { NodeDeps } from '../node-deps.ts';
import { makeDeviceNodes } from './device-nodes.ts';
import { type GpuRestorePlan, type Reserved, shortOfVram } from './restore-target.ts';

/** For a question to the driver that answers at once when it is well. */
const STATE_MS = 10_000;

export interface GpuRestoreInput {
  readonly container: { readonly namespace: string; readonly id: string };
  readonly initHostPid: number;
  readonly processes: Metadata['gpuProcesses'];
  readonly plan: GpuRestorePlan;
  /** by operations other than this one; asked when the devices have been made */
  readonly reserved: (driver: GpuDriver) => Promise<Reserved>;
  /** of performance.now(): every driver call ends by then */
  readonly deadline: number;
}

interface Restored {
  readonly hostPid: number;
  readonly pairs: readonly GpuPair[];
}

/**
 * @returns what came back, and where
 * @throws GpuOutOfMemory too little VRAM is free (nothing was asked of the driver), or the driver ran out of it;
 * RestoreFailed everything else. In each case the container must be ended.
 * Crash: the processes stay locked or checkpointed; the wrapper's call fails and it ends the container.
 */
export async function restoreContainerGpu(
  deps: Pick<NodeDeps, 'gpu' | 'run'>,
  input: GpuRestoreInput,
): Promise<GpuRestoreFacts> {
  const opened = deps.gpu();
  if (opened.driver === undefined) {
    throw new KybernateError('RestoreFailed', `the NVIDIA driver is gone: ${opened.reason}`);
  }
  const { driver } = opened;
  const begun = performance.now();
  const processes = gpuProcessesOf(input);
  await verify(driver, processes, ['checkpointed'], input);
  await makeDeviceNodes(deps.run, input.initHostPid, input.plan.fit.nodes);
  const short = shortOfVram(driver, input.plan.vram, await input.reserved(driver));
  if (short.length > 0) {
    // Not asked: a process that runs out of VRAM in its restore is lost, and would poison this try.
    throw new KybernateError('GpuOutOfMemory', `${nameOf(input)}: ${short.join('; ')}`, { details: { short } });
  }
  const prepared = performance.now();
  await together(input, processes, ({ hostPid, pairs }) => driver.restore(hostPid, pairs, left(input.deadline)));
  const restored = performance.now();
  await together(input, processes, ({ hostPid }) => driver.unlock(hostPid, left(input.deadline)));
  // One may end as soon as it is unlocked, by itself.
  await verify(driver, processes, ['running', 'none'], input);
  const done = performance.now();
  return {
    processes: processes.length,
    vramBytes: input.processes.reduce((sum, { vramBytes }) => sum + vramBytes, 0),
    map: input.plan.map,
    restoreMs: done - begun,
    parts: {
      'gpu-devices': prepared - begun,
      'gpu-restore': restored - prepared,
      'gpu-unlock': done - restored,
    },
    warnings: [],
  };
}

function nameOf({ container }: GpuRestoreInput): string {
  return `container ${container.namespace}/${container.id}`;
}

/** The processes of the dump under their new host pids: CRIU gives each the pid that it had in its namespace. */
function gpuProcessesOf(input: GpuRestoreInput): readonly Restored[] {
  const { initHostPid } = input;
  const cgroup = freezerCgroup(initHostPid);
  const tree = processTree(initHostPid, cgroup === undefined ? [] : cgroupPids(cgroup.path));
  const namespaceOf = (hostPid: number): string | undefined => readProcLink(`/proc/${hostPid}/ns/pid`);
  const own = namespaceOf(initHostPid);
  // A namespace within the container's may hold the same numbers; its processes come second.
  const inOrder = [...tree.filter(({ hostPid }) => namespaceOf(hostPid) === own), ...tree];
  const taken = new Set<number>();
  return input.processes.map(({ nsPid, visible }) => {
    const found = inOrder.find((process) => process.nsPid === nsPid && !taken.has(process.hostPid));
    if (found === undefined) {
      throw new KybernateError(
        'RestoreFailed',
        `${nameOf(input)}: its GPU process ${nsPid} (pid in the container) did not come back`,
      );
    }
    taken.add(found.hostPid);
    return { hostPid: found.hostPid, pairs: driverPairs(input.plan.map, visible) };
  });
}

async function verify(
  driver: GpuDriver,
  processes: readonly Restored[],
  wanted: ReadonlyArray<GpuProcessState | 'none'>,
  input: GpuRestoreInput,
): Promise<void> {
  await together(input, processes, async ({ hostPid }) => {
    const state = await stateOf(driver, hostPid, Math.min(STATE_MS, left(input.deadline)));
    if (!wanted.includes(state)) {
      throw new KybernateError('RestoreFailed', `GPU state of pid ${hostPid} is ${state}, not ${wanted[0]}`);
    }
  });
}

/** `none` also for one that has ended. */
async function stateOf(driver: GpuDriver, hostPid: number, deadlineMs: number): Promise<GpuProcessState | 'none'> {
  try {
    return await driver.processState(hostPid, deadlineMs);
  } catch (error) {
    if (hasEnded(hostPid)) {
      return 'none';
    }
    throw error;
  }
}

function hasEnded(hostPid: number): boolean {
  return ['Z', 'X', undefined].includes(readProcess(hostPid)?.state);
}

/** All at once; every one comes to its end, and running out of memory is what counts of several errors. */
async function together(
  input: GpuRestoreInput,
  processes: readonly Restored[],
  act: (process: Restored) => Promise<void>,
): Promise<void> {
  const results = await Promise.allSettled(processes.map((process) => act(process)));
  const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
  if (errors.length === 0) {
    return;
  }
  const outOfMemory = errors.some((error) => isCudaError(error, CUDA.OUT_OF_MEMORY));
  throw new KybernateError(
    outOfMemory ? 'GpuOutOfMemory' : 'RestoreFailed',
    `${nameOf(input)}: the GPU state did not come back: ${errors.map(messageOf).join('; ')}`,
    { cause: errors[0] },
  );
}

function left(deadline: number): number {
  return Math.max(1, deadline - performance.now());
}

/*
 * Data loaders fork workers all the time, also between the plan and the save. A CPU thread of a locked process may still
 * fork; what comes after this look is refused by CRIU, and the capture undone.
 */
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { readProcLink } from '../../native/proc/read.ts';
import { liveProcesses } from '../live-processes.ts';
import type { OperationPlan } from '../operation.ts';
import type { ForkedChild } from './gpu-plan.ts';
import { deviceHoldings } from './scrub.ts';

const STATE_MS = 2000;

/**
 * The planned children that live, and those forked since: holders of devices that run the program of a planned CUDA
 * process and that the driver does not know. Reads only.
 * @throws what the driver throws, for a process that still holds devices
 */
export async function childrenNow(
  plan: Pick<OperationPlan, 'gpu' | 'facts'>,
  driver: Pick<GpuDriver, 'processState'>,
): Promise<readonly ForkedChild[]> {
  const planned = new Set(plan.gpu.processes.map((process) => process.hostPid));
  const known = new Map(plan.gpu.children.map((child) => [child.hostPid, child.startTime]));
  const programs = new Set(plan.gpu.processes.map(({ hostPid }) => readProcLink(`/proc/${hostPid}/exe`)));
  const others = liveProcesses(plan.facts).filter(({ hostPid, state }) => !planned.has(hostPid) && state !== 'Z');
  const found: ForkedChild[] = [];
  for (const { hostPid, nsPid, startTime, command } of others) {
    const isKnown = known.get(hostPid) === startTime;
    if (isKnown || (programs.has(readProcLink(`/proc/${hostPid}/exe`) ?? '') && (await isForked(hostPid, driver)))) {
      found.push({ hostPid, nsPid, startTime, command });
    }
  }
  return found;
}

async function isForked(hostPid: number, driver: Pick<GpuDriver, 'processState'>): Promise<boolean> {
  const { fds, ranges } = deviceHoldings(hostPid);
  if (fds.length === 0 && ranges.length === 0) {
    return false;
  }
  try {
    return (await driver.processState(hostPid, STATE_MS)) === 'none';
  } catch (error) {
    if (readProcLink(`/proc/${hostPid}/exe`) === undefined) {
      return false;
    }
    throw error;
  }
}

/*
 * Room for the images of GPU processes in the memory cgroups of a container that is being restored. Its own limit is
 * raised in the specification before the runtime makes the cgroup, and put back when the VRAM is on the devices again;
 * limits above it are raised for the same time. A container whose restore does not come to its end is removed, so its
 * own limit needs no undo; those above are in the restore's record.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OciMemory, OciSpec } from '../../core/oci/spec.ts';
import type { Run } from '../../native/run/run.ts';
import { sliceSteps } from '../../core/oci/cgroups-path.ts';
import { type MemoryHierarchy, memoryHierarchy, memoryInUse, type MemoryRaisePlan, planRaises } from './memory-plan.ts';

/** How long usage may take to fall below the container's own limit after the unlock. */
const LOWER_MS = 10_000;
/** For `runc update`, which asks systemd where that keeps the cgroup. */
const UPDATE_MS = 10_000;
const POLL_MS = 50;

/**
 * Cgroups above the container's, outermost first, the root left out. Source: runc, docs/systemd.md: in
 * `slice:prefix:name` a dash of the slice's name is a step down.
 */
export function ancestorsOf(cgroupsPath: string): readonly string[] {
  const slice = cgroupsPath.includes(':') ? cgroupsPath.split(':')[0] : undefined;
  const path = slice === undefined ? cgroupsPath.split('/').slice(0, -1) : sliceSteps(slice);
  const steps = path.filter((step) => step !== '' && step !== '..');
  return steps.map((_step, index) => `/${steps.slice(0, index + 1).join('/')}`);
}

/**
 * Limits above the container that leave less than `memoryBytes`.
 * @param toPutBack limits that other operations have raised, and what each will be again
 */
export function ancestorRaises(
  cgroupsPath: string,
  memoryBytes: number,
  toPutBack: ReadonlyMap<string, string>,
  hierarchy: Pick<MemoryHierarchy, 'version' | 'root'> | undefined = memoryHierarchy(),
): MemoryRaisePlan {
  if (hierarchy === undefined) {
    return { raises: [], refusals: [] };
  }
  const { version, root } = hierarchy;
  const needed = new Map(ancestorsOf(cgroupsPath).map((path) => [join(root, path), memoryBytes]));
  return planRaises(needed, version, toPutBack);
}

/** The memory limit that the specification asks for, when the restore needs a higher one. */
export function limitToPutBack(spec: OciSpec, memoryBytes: number): OciMemory | undefined {
  const memory = spec.linux?.resources?.memory;
  return memory?.limit === undefined || memory.limit <= 0 || memory.limit >= memoryBytes ? undefined : memory;
}

export interface LowerMemory {
  readonly runcPath: string;
  readonly runcRoot: string;
  readonly containerId: string;
  readonly initHostPid: number;
  readonly memory: OciMemory;
}

/**
 * Gives the container the limit that its creator wanted, by its runtime, which keeps it (and tells systemd). cgroup v2
 * takes every limit and kills what does not fit, so it waits until the memory of the save has gone. Never throws: the
 * workload runs by now, and nothing that it has done since may be lost for a limit.
 *
 * @returns why the limit stays raised, with what to do; empty when it is put back
 */
export async function lowerMemory(run: Run, input: LowerMemory): Promise<readonly string[]> {
  const { memory, containerId } = input;
  const limit = memory.limit ?? 0;
  const swap = memory.swap === undefined || memory.swap <= 0 ? [] : ['--memory-swap', String(memory.swap)];
  const args = ['--root', input.runcRoot, 'update', '--memory', String(limit), ...swap, containerId];
  const remedy = `lower it yourself: ${input.runcPath} ${args.join(' ')}`;
  const until = performance.now() + LOWER_MS;
  for (let usedBytes = memoryInUse(input.initHostPid); usedBytes >= limit;) {
    if (performance.now() > until) {
      return [
        `container ${containerId} uses ${usedBytes} bytes, so its memory limit of ${limit} stays raised; ${remedy}`,
      ];
    }
    await sleep(POLL_MS);
    usedBytes = memoryInUse(input.initHostPid);
  }
  const result = await run(input.runcPath, args, { timeoutMs: UPDATE_MS });
  if (result.exitCode === 0) {
    return [];
  }
  const why = result.startError ?? (result.timedOut ? `no answer within ${UPDATE_MS} ms` : result.stderr.trim());
  return [`the memory limit of container ${containerId} could not be put back to ${limit}: ${why}; ${remedy}`];
}

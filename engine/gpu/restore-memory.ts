/*
 * Room for the images of GPU processes in the memory cgroups of a container that is being restored. Its own limit is
 * raised in the specification before the runtime makes the cgroup, and put back when the VRAM is on the devices again;
 * limits above it are raised for the same time. A container whose restore does not come to its end is removed, so its
 * own limit needs no undo; those above are in the restore's record.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OciMemory, OciSpec } from '../../core/oci/spec.ts';
import { type MountInfo, readMounts } from '../../native/proc/mounts.ts';
import { readProc } from '../../native/proc/read.ts';
import type { Run } from '../../native/run/run.ts';
import type { MemoryRaise } from './gpu-plan.ts';
import { readLimit, statBytes } from './memory-room.ts';

/** How long usage may take to fall below the container's own limit after the unlock. */
const LOWER_MS = 10_000;
/** For `runc update`, which asks systemd where that keeps the cgroup. */
const UPDATE_MS = 10_000;
const POLL_MS = 50;

/** Where memory is limited on this machine. */
export interface MemoryHierarchy {
  readonly version: 1 | 2;
  /** absolute directory of the root cgroup */
  readonly root: string;
}

/** @returns undefined when no hierarchy has the memory controller */
export function memoryHierarchy(mounts: readonly MountInfo[] = readMounts('self')): MemoryHierarchy | undefined {
  const v1 = mounts.find((mount) => mount.type === 'cgroup' && mount.superOptions.includes('memory'));
  const mount = v1 ?? mounts.find(({ type }) => type === 'cgroup2');
  return mount === undefined ? undefined : { version: v1 === undefined ? 2 : 1, root: mount.mountPoint };
}

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

function sliceSteps(slice: string): readonly string[] {
  const words = slice.replace(/\.slice$/, '').split('-');
  return words.map((_word, index) => `${words.slice(0, index + 1).join('-')}.slice`);
}

const LIMITS = { 1: ['memory.memsw.limit_in_bytes', 'memory.limit_in_bytes'], 2: ['memory.high', 'memory.max'] };
const USAGE = { 1: 'memory.usage_in_bytes', 2: 'memory.current' };
const FILE_PAGES = { 1: ['total_active_file', 'total_inactive_file'], 2: ['active_file', 'inactive_file'] };

/** Limits above the container that leave less than `memoryBytes`; file pages do not count, they are dropped first. */
export function ancestorRaises(
  cgroupsPath: string,
  memoryBytes: number,
  hierarchy: MemoryHierarchy | undefined = memoryHierarchy(),
): readonly MemoryRaise[] {
  if (hierarchy === undefined) {
    return [];
  }
  const { version, root } = hierarchy;
  return ancestorsOf(cgroupsPath).flatMap((path) => {
    const dir = join(root, path);
    const needed = used(dir, version) + memoryBytes;
    return LIMITS[version].flatMap((name) => {
      const file = join(dir, name);
      const before = readLimit(file);
      return before === undefined || before === 'max' || Number(before) >= needed
        ? []
        : [{ file, before, after: String(pages(needed)) }];
    });
  });
}

function used(dir: string, version: 1 | 2): number {
  const stat = readLimit(join(dir, 'memory.stat')) ?? '';
  const filePages = FILE_PAGES[version].reduce((sum, name) => sum + statBytes(stat, name), 0);
  return Math.max(0, Number(readLimit(join(dir, USAGE[version])) ?? 0) - filePages);
}

/** The kernel keeps limits in pages and would read back another number. */
function pages(bytes: number): number {
  const PAGE = 64 * 1024;
  return Math.ceil(bytes / PAGE) * PAGE;
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
  for (let usedBytes = containerUsage(input.initHostPid); usedBytes >= limit;) {
    if (performance.now() > until) {
      return [
        `container ${containerId} uses ${usedBytes} bytes, so its memory limit of ${limit} stays raised; ${remedy}`,
      ];
    }
    await sleep(POLL_MS);
    usedBytes = containerUsage(input.initHostPid);
  }
  const result = await run(input.runcPath, args, { timeoutMs: UPDATE_MS });
  if (result.exitCode === 0) {
    return [];
  }
  const why = result.startError ?? (result.timedOut ? `no answer within ${UPDATE_MS} ms` : result.stderr.trim());
  return [`the memory limit of container ${containerId} could not be put back to ${limit}: ${why}; ${remedy}`];
}

function containerUsage(initHostPid: number): number {
  const hierarchy = memoryHierarchy();
  if (hierarchy === undefined) {
    return 0;
  }
  const { version, root } = hierarchy;
  const lines = (readProc(`/proc/${initHostPid}/cgroup`) ?? '').split('\n');
  for (const line of lines) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (path !== undefined && (version === 1 ? controllers?.split(',').includes('memory') : controllers === '')) {
      return used(join(root, path), version);
    }
  }
  return 0;
}

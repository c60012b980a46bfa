/* Which memory limits have to be raised so that GPU state fits into the cgroups that count it. Reads only. */
import { accessSync, constants } from 'node:fs';
import { dirname, join } from 'node:path';
import { type MountInfo, readMounts } from '../../native/proc/mounts.ts';
import { readProc } from '../../native/proc/read.ts';
import type { MemoryRaise } from './gpu-plan.ts';
import { readLimit, statBytes } from './memory-room.ts';

/** What one process will take beside what it has now. */
export interface MemoryNeed {
  readonly hostPid: number;
  readonly bytes: number;
}

export interface MemoryRaisePlan {
  /** outermost cgroup first; of one cgroup in the order in which the kernel takes them */
  readonly raises: readonly MemoryRaise[];
  /** why a limit cannot be raised */
  readonly refusals: readonly string[];
}

/** Where memory is limited on this machine. */
export interface MemoryHierarchy {
  readonly version: 1 | 2;
  /** directory of the topmost cgroup that is mounted: it has no limit, or none that we may change */
  readonly root: string;
  /** path of that cgroup, `/` where the whole hierarchy is mounted */
  readonly mounted: string;
}

interface MemoryCgroup extends Pick<MemoryHierarchy, 'version' | 'root'> {
  readonly path: string;
}

/** Limit and the usage that it bounds. v1 wants memory and swap together never below memory alone. */
const LIMITS = {
  1: [
    ['memory.memsw.limit_in_bytes', 'memory.memsw.usage_in_bytes'],
    ['memory.limit_in_bytes', 'memory.usage_in_bytes'],
  ],
  2: [
    ['memory.max', 'memory.current'],
    ['memory.high', 'memory.current'],
  ],
} as const;

const FILE_PAGES = { 1: ['total_active_file', 'total_inactive_file'], 2: ['active_file', 'inactive_file'] } as const;

/** Of what is needed: usage goes on growing until the memory is taken. */
const MARGIN = 0.1;
const MARGIN_BYTES = 64 * 1024 * 1024;
/** Limits are kept in pages; every page size divides this. */
const ALIGNMENT = 1024 * 1024;

/** @returns undefined when no hierarchy has the memory controller */
export function memoryHierarchy(mounts: readonly MountInfo[] = readMounts('self')): MemoryHierarchy | undefined {
  const v1 = mounts.find((mount) => mount.type === 'cgroup' && mount.superOptions.includes('memory'));
  const mount = v1 ?? mounts.find(({ type }) => type === 'cgroup2');
  return mount === undefined
    ? undefined
    : { version: v1 === undefined ? 2 : 1, root: mount.mountPoint, mounted: mount.root };
}

/** @returns undefined when the process is gone or memory is limited nowhere */
export function memoryCgroup(
  hostPid: number,
  hierarchy: MemoryHierarchy | undefined = memoryHierarchy(),
  text: string = readProc(`/proc/${hostPid}/cgroup`) ?? '',
): MemoryCgroup | undefined {
  if (hierarchy === undefined) {
    return undefined;
  }
  const { version, root, mounted } = hierarchy;
  for (const line of text.split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    const wanted = version === 2 ? controllers === '' : controllers?.split(',').includes('memory');
    if (path !== undefined && wanted === true) {
      // where a part of the hierarchy is mounted, paths are still given from its top
      const below = mounted !== '/' && `${path}/`.startsWith(`${mounted}/`) ? path.slice(mounted.length) : path;
      return { version, path: join(root, below), root };
    }
  }
  return undefined;
}

/** Bytes in use in the memory cgroup of a process, of which the kernel cannot drop any; 0 when there is none. */
export function memoryInUse(hostPid: number): number {
  const cgroup = memoryCgroup(hostPid);
  if (cgroup === undefined) {
    return 0;
  }
  const { version, path } = cgroup;
  const usage = version === 1 ? 'memory.usage_in_bytes' : 'memory.current';
  return Math.max(0, Number(readLimit(join(path, usage)) ?? 0) - filePages(path, version));
}

/**
 * @param toPutBack limits that other operations have raised, and what each will be again: more is no room that lasts
 * @param find where a process is limited
 */
export function planMemoryRaises(
  needs: readonly MemoryNeed[],
  toPutBack: ReadonlyMap<string, string>,
  find: (hostPid: number) => MemoryCgroup | undefined = (hostPid) => memoryCgroup(hostPid),
): MemoryRaisePlan {
  const needed = new Map<string, number>();
  let version: 1 | 2 = 2;
  for (const need of needs) {
    const cgroup = find(need.hostPid);
    if (cgroup !== undefined) {
      version = cgroup.version;
      chainOf(cgroup).forEach((dir) => needed.set(dir, (needed.get(dir) ?? 0) + need.bytes));
    }
  }
  return planRaises(needed, version, toPutBack);
}

/** The cgroup itself and those above it, the root left out. */
function chainOf({ path, root }: MemoryCgroup): string[] {
  const chain: string[] = [];
  for (let dir = path; dir.startsWith(`${root}/`); dir = dirname(dir)) {
    chain.push(dir);
  }
  return chain;
}

/**
 * @param needed directory of a cgroup to the bytes that will be taken in it
 * @param toPutBack as of `planMemoryRaises`
 */
export function planRaises(
  needed: ReadonlyMap<string, number>,
  version: 1 | 2,
  toPutBack: ReadonlyMap<string, string>,
): MemoryRaisePlan {
  const raises: MemoryRaise[] = [];
  const refusals: string[] = [];
  for (const [dir, bytes] of [...needed].sort(([left], [right]) => left.length - right.length)) {
    for (const raise of raisesOf(dir, version, bytes, toPutBack)) {
      const refusal = refusalOf(raise, toPutBack);
      if (refusal === undefined) {
        raises.push(raise);
      } else {
        refusals.push(refusal);
      }
    }
  }
  return { raises, refusals };
}

function raisesOf(dir: string, version: 1 | 2, bytes: number, toPutBack: ReadonlyMap<string, string>): MemoryRaise[] {
  return LIMITS[version].flatMap(([limit, usage]) => {
    const file = join(dir, limit);
    const before = readLimit(file);
    if (before === undefined || before === 'max') {
      return [];
    }
    const used = Number(readLimit(join(dir, usage)) ?? 0);
    // file pages give way, but whether all of them can is not known: a raise counts them in
    return Number(toPutBack.get(file) ?? before) >= withMargin(used - filePages(dir, version) + bytes)
      ? []
      : [{ file, before, after: String(Math.ceil(withMargin(used + bytes) / ALIGNMENT) * ALIGNMENT) }];
  });
}

function filePages(dir: string, version: 1 | 2): number {
  const stat = readLimit(join(dir, 'memory.stat')) ?? '';
  return FILE_PAGES[version].reduce((sum, name) => sum + statBytes(stat, name), 0);
}

function withMargin(bytes: number): number {
  return bytes + bytes * MARGIN + MARGIN_BYTES;
}

function refusalOf(raise: MemoryRaise, toPutBack: ReadonlyMap<string, string>): string | undefined {
  if (toPutBack.has(raise.file)) {
    return `the memory limit ${raise.file} is raised by another operation now: try again when that has ended`;
  }
  try {
    accessSync(raise.file, constants.W_OK);
    return undefined;
  } catch {
    // EROFS or EACCES: an agent that sees the cgroups read-only.
    return (
      `the memory limit ${raise.file} is ${raise.before} bytes, ${raise.after} are needed for the GPU memory, and it ` +
      'cannot be written from here: raise it, or give the agent the cgroups of the node to write'
    );
  }
}

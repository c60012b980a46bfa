/* Which memory limits have to be raised so that GPU state fits into the cgroups of its processes. Reads only. */
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

interface MemoryCgroup {
  readonly version: 1 | 2;
  readonly path: string;
  /** root of the hierarchy as it is mounted here: it has no limit, or none that we may change */
  readonly root: string;
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

/** Of what is needed: usage goes on growing until the save. */
const MARGIN = 0.1;
const MARGIN_BYTES = 64 * 1024 * 1024;
/** Limits are kept in pages; every page size divides this. */
const ALIGNMENT = 1024 * 1024;

/** @returns undefined when the process is gone or memory is limited nowhere */
export function memoryCgroup(
  hostPid: number,
  mounts: readonly MountInfo[] = readMounts('self'),
  text: string = readProc(`/proc/${hostPid}/cgroup`) ?? '',
): MemoryCgroup | undefined {
  const v1 = mounts.find((mount) => mount.type === 'cgroup' && mount.superOptions.includes('memory'));
  const mount = v1 ?? mounts.find((candidate) => candidate.type === 'cgroup2');
  if (mount === undefined) {
    return undefined;
  }
  for (const line of text.split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    const wanted = v1 === undefined ? controllers === '' : controllers?.split(',').includes('memory');
    if (path !== undefined && wanted === true) {
      // where a part of the hierarchy is mounted, paths are still given from its top
      const below =
        mount.root !== '/' && `${path}/`.startsWith(`${mount.root}/`) ? path.slice(mount.root.length) : path;
      return { version: v1 === undefined ? 2 : 1, path: join(mount.mountPoint, below), root: mount.mountPoint };
    }
  }
  return undefined;
}

/**
 * @param raisedByOthers limits that another operation will put back: no room that lasts
 * @param find where a process is limited
 */
export function planMemoryRaises(
  needs: readonly MemoryNeed[],
  raisedByOthers: ReadonlySet<string>,
  find: (hostPid: number) => MemoryCgroup | undefined = (hostPid) => memoryCgroup(hostPid),
): MemoryRaisePlan {
  const needed = new Map<string, { readonly version: 1 | 2; readonly bytes: number }>();
  for (const need of needs) {
    const cgroup = find(need.hostPid);
    for (const dir of cgroup === undefined ? [] : chainOf(cgroup)) {
      const bytes = (needed.get(dir)?.bytes ?? 0) + need.bytes;
      needed.set(dir, { version: cgroup?.version ?? 2, bytes });
    }
  }
  const raises: MemoryRaise[] = [];
  const refusals: string[] = [];
  for (const [dir, { version, bytes }] of [...needed].sort(([left], [right]) => left.length - right.length)) {
    for (const raise of raisesOf(dir, version, bytes)) {
      const refusal = refusalOf(raise, raisedByOthers);
      if (refusal === undefined) {
        raises.push(raise);
      } else {
        refusals.push(refusal);
      }
    }
  }
  return { raises, refusals };
}

/** The cgroup itself and those above it, the root left out. */
function chainOf({ path, root }: MemoryCgroup): string[] {
  const chain: string[] = [];
  for (let dir = path; dir.startsWith(`${root}/`); dir = dirname(dir)) {
    chain.push(dir);
  }
  return chain;
}

function raisesOf(dir: string, version: 1 | 2, bytes: number): MemoryRaise[] {
  const stat = readLimit(join(dir, 'memory.stat')) ?? '';
  const filePages = FILE_PAGES[version].reduce((sum, name) => sum + statBytes(stat, name), 0);
  return LIMITS[version].flatMap(([limit, usage]) => {
    const file = join(dir, limit);
    const before = readLimit(file);
    if (before === undefined || before === 'max') {
      return [];
    }
    const used = Number(readLimit(join(dir, usage)) ?? 0);
    // file pages give way, but whether all of them can is not known: a raise counts them in
    return Number(before) >= withMargin(used - filePages + bytes)
      ? []
      : [{ file, before, after: String(Math.ceil(withMargin(used + bytes) / ALIGNMENT) * ALIGNMENT) }];
  });
}

function withMargin(bytes: number): number {
  return bytes + bytes * MARGIN + MARGIN_BYTES;
}

function refusalOf(raise: MemoryRaise, raisedByOthers: ReadonlySet<string>): string | undefined {
  if (raisedByOthers.has(raise.file)) {
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

/* Where the cgroups of a process lie. Source: cgroups(7), proc_pid_cgroup(5). */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { readMounts, type MountInfo } from './mounts.ts';
import { readProc } from './read.ts';

export interface CgroupDir {
  readonly version: 1 | 2;
  /** absolute directory */
  readonly path: string;
}

/**
 * 2 when the freezer is that of the unified hierarchy. On a hybrid machine the freezer is v1 beside an empty v2
 * hierarchy, and 1 is the answer.
 */
export function cgroupVersion(mounts: readonly MountInfo[] = readMounts('self')): 1 | 2 {
  return freezerMountV1(mounts) === undefined && mounts.some((mount) => mount.type === 'cgroup2') ? 2 : 1;
}

function freezerMountV1(mounts: readonly MountInfo[]): MountInfo | undefined {
  return mounts.find((mount) => mount.type === 'cgroup' && mount.superOptions.includes('freezer'));
}

/** @param text content of /proc/<pid>/cgroup */
export function freezerPathIn(text: string, mounts: readonly MountInfo[]): CgroupDir | undefined {
  const version = cgroupVersion(mounts);
  const mount = version === 1 ? freezerMountV1(mounts) : mounts.find((candidate) => candidate.type === 'cgroup2');
  for (const line of text.split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    const wanted = version === 1 ? controllers?.split(',').includes('freezer') : controllers === '';
    if (mount !== undefined && path !== undefined && wanted === true) {
      return { version, path: join(mount.mountPoint, belowRoot(mount.root, path)) };
    }
  }
  return undefined;
}

/** Where a part of the hierarchy alone is mounted (inside a container), paths are still given from its top. */
function belowRoot(root: string, path: string): string {
  return root !== '/' && (path === root || path.startsWith(`${root}/`)) ? path.slice(root.length) : path;
}

/** The cgroup whose freezer holds this process; undefined when it is gone or there is no freezer. */
export function freezerCgroup(hostPid: number): CgroupDir | undefined {
  return freezerPathIn(readProc(`/proc/${hostPid}/cgroup`) ?? '', readMounts('self'));
}

/** Host pids in a cgroup itself; empty when it is gone. */
export function groupPids(dir: string): number[] {
  return (
    (readProc(join(dir, 'cgroup.procs')) ?? '')
      .split('\n')
      // 0 stands for a process that our pid namespace does not see
      .filter((line) => line !== '' && line !== '0')
      .map(Number)
  );
}

/** Host pids in a cgroup and in all below it; empty when it is gone. */
export function cgroupPids(dir: string): number[] {
  const pids = new Set<number>();
  const visit = (current: string): void => {
    groupPids(current).forEach((pid) => pids.add(pid));
    subgroups(current).forEach(visit);
  };
  visit(dir);
  return [...pids].sort((left, right) => left - right);
}

function subgroups(dir: string): string[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(dir, entry.name));
  } catch (error) {
    if (['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return [];
    }
    throw error;
  }
}

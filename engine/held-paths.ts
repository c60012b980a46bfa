/* What processes hold by its name: CRIU looks it up there at a restore, and it must be there. */
import { dirname, join } from 'node:path';
import { openFds } from '../native/proc/fds.ts';
import { readMaps } from '../native/proc/maps.ts';
import { type MountInfo, readMounts } from '../native/proc/mounts.ts';
import { readProc, readProcLink } from '../native/proc/read.ts';
import type { ContainerFacts } from './container-facts.ts';

type Process = ContainerFacts['processes'][number];

export interface Held<Directory> {
  readonly process: Process;
  /** in the container, each once */
  readonly paths: readonly string[];
  readonly directory: Directory;
}

/** What the processes hold below mounts that would be empty elsewhere; the directories themselves are there. */
export function heldIn<Directory extends { readonly destination: string }>(
  processes: readonly Process[],
  directories: readonly Directory[],
): ReadonlyArray<Held<Directory>> {
  if (directories.length === 0) {
    return [];
  }
  return processes
    .filter(({ entered }) => !entered)
    .flatMap((process) => {
      const held = heldPaths(process.hostPid);
      return directories.flatMap((directory) => {
        const paths = new Set(
          held
            .filter(({ mountPoint, needs }) => mountPoint === directory.destination && needs !== mountPoint)
            .map(({ path }) => path),
        );
        return paths.size === 0 ? [] : [{ process, paths: [...paths], directory }];
      });
    });
}

interface HeldPath {
  readonly path: string;
  /** what must be there at a restore: the path itself, or of a socket, which is made again, its directory */
  readonly needs: string;
  /** of the mount that it lies on */
  readonly mountPoint: string | undefined;
}

/** Open files and directories, mapped files, programs, the working directory, names of sockets. */
function heldPaths(hostPid: number): HeldPath[] {
  const mounts = readMounts(hostPid);
  const points = new Map(mounts.map(({ id, mountPoint }) => [id, mountPoint]));
  const fds = openFds(hostPid);
  const opened = fds
    .filter(({ kind }) => kind === 'file' || kind === 'deleted')
    .map(({ target, mountId }) => ({ path: target, needs: target, mountPoint: points.get(mountId) }));
  const cwd = readProcLink(`/proc/${hostPid}/cwd`) ?? '';
  const named = [...readMaps(hostPid).map(({ path }) => path), cwd].map((path) => ({ path, needs: path }));
  const inodes = new Set(fds.flatMap(({ kind, inode }) => (kind === 'socket' && inode !== undefined ? [inode] : [])));
  const sockets = inodes.size === 0 ? [] : boundSockets(hostPid, inodes, cwd);
  return [
    ...opened,
    ...[...named, ...sockets]
      .filter(({ path }) => path.startsWith('/'))
      .map((one) => ({ ...one, mountPoint: mountOver(mounts, one.path)?.mountPoint })),
  ];
}

/**
 * Unix sockets with a name in the file system. A relative name counts from the working directory that the process has now:
 * where it was bound the kernel does not tell here. Source: proc_pid_net(5), net/unix.
 */
function boundSockets(
  hostPid: number,
  inodes: ReadonlySet<number>,
  cwd: string,
): Array<{ readonly path: string; readonly needs: string }> {
  const lines = (readProc(`/proc/${hostPid}/net/unix`) ?? '').split('\n').slice(1);
  return lines.flatMap((line) => {
    const [, inode, name] = /^(?:\S+\s+){6}(\d+) (.+)$/.exec(line) ?? [];
    if (name === undefined || name.startsWith('@') || !inodes.has(Number(inode))) {
      return [];
    }
    const path = name.startsWith('/') ? name : join(cwd, name);
    return [{ path, needs: dirname(path) }];
  });
}

/** The mount that a path of a process lies on. */
export function mountOver(mounts: readonly MountInfo[], path: string): MountInfo | undefined {
  const above = mounts.filter(
    ({ mountPoint }) => mountPoint === '/' || path === mountPoint || path.startsWith(`${mountPoint}/`),
  );
  const deepest = Math.max(0, ...above.map(({ mountPoint }) => mountPoint.length));
  return above.findLast(({ mountPoint }) => mountPoint.length === deepest);
}

/* Source: proc_pid_mountinfo(5). */
import { readProc, unescapeOctal } from './read.ts';

export interface MountInfo {
  readonly id: number;
  readonly parentId: number;
  /** `major:minor` of the file system */
  readonly device: string;
  /** what of the file system is mounted */
  readonly root: string;
  /** seen from the process's own root */
  readonly mountPoint: string;
  readonly options: readonly string[];
  /** `shared:N`, `master:N` and the like */
  readonly propagation: readonly string[];
  readonly type: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

export function parseMountinfo(text: string): MountInfo[] {
  return text.split('\n').flatMap((line) => {
    const [left, right] = line.split(' - ', 2);
    if (left === undefined || right === undefined) {
      return [];
    }
    const [id, parentId, device, root, mountPoint, options, ...propagation] = left.split(' ');
    const [type, source, superOptions] = right.split(' ');
    return [
      {
        id: Number(id),
        parentId: Number(parentId),
        device: device ?? '',
        root: unescapeOctal(root ?? ''),
        mountPoint: unescapeOctal(mountPoint ?? ''),
        options: (options ?? '').split(','),
        propagation: propagation.filter((field) => field !== ''),
        type: type ?? '',
        source: unescapeOctal(source ?? ''),
        superOptions: (superOptions ?? '').split(','),
      },
    ];
  });
}

/** Mounts that a process sees, in the order of their making; empty when it is gone. */
export function readMounts(hostPid: number | 'self'): MountInfo[] {
  return parseMountinfo(readProc(`/proc/${hostPid}/mountinfo`) ?? '');
}

/** The mount on top at a mount point: the last one there. */
export function mountAt(mounts: readonly MountInfo[], mountPoint: string): MountInfo | undefined {
  return mounts.findLast((mount) => mount.mountPoint === mountPoint);
}

/* Open files of a process. Source: proc_pid_fd(5), proc_pid_fdinfo(5). */
import { numericEntries, readProc, readProcLink } from './read.ts';

export type FdKind = 'file' | 'deleted' | 'device' | 'socket' | 'pipe' | 'anon' | 'memfd' | 'other';

export interface OpenFd {
  readonly fd: number;
  readonly kind: FdKind;
  /** as /proc shows it: a path, `socket:[inode]`, `anon_inode:[eventpoll]`, ... */
  readonly target: string;
  /** of sockets and pipes */
  readonly inode?: number;
  /** open(2) flags */
  readonly flags: number;
  /** id of the mount that the file was opened through */
  readonly mountId: number;
  /** flock, fcntl and open-file-description locks and leases held through it */
  readonly locks: number;
}

const DELETED = ' (deleted)';

export function fdKind(target: string): FdKind {
  if (target.startsWith('socket:[')) {
    return 'socket';
  }
  if (target.startsWith('pipe:[')) {
    return 'pipe';
  }
  if (target.startsWith('anon_inode:')) {
    return 'anon';
  }
  if (target.startsWith('/memfd:')) {
    return 'memfd';
  }
  if (target.startsWith('/dev/') && !target.startsWith('/dev/shm/') && !target.startsWith('/dev/mqueue/')) {
    return 'device';
  }
  if (target.startsWith('/')) {
    return target.endsWith(DELETED) ? 'deleted' : 'file';
  }
  return 'other';
}

/** In order of their numbers; empty when the process is gone. */
export function openFds(hostPid: number): OpenFd[] {
  return numericEntries(`/proc/${hostPid}/fd`).flatMap((fd) => {
    const target = readProcLink(`/proc/${hostPid}/fd/${fd}`);
    if (target === undefined) {
      return [];
    }
    const info = readProc(`/proc/${hostPid}/fdinfo/${fd}`) ?? '';
    const inode = /:\[(\d+)\]$/.exec(target)?.[1];
    return [
      {
        fd,
        kind: fdKind(target),
        target,
        ...(inode === undefined ? {} : { inode: Number(inode) }),
        flags: Number.parseInt(/^flags:\s*([0-7]+)$/m.exec(info)?.[1] ?? '0', 8),
        mountId: Number(/^mnt_id:\s*(\d+)$/m.exec(info)?.[1] ?? 0),
        locks: [...info.matchAll(/^lock:/gm)].length,
      },
    ];
  });
}

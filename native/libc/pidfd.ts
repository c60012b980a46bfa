/* Source: pidfd_open(2), pidfd_getfd(2). Kernel >= 5.6. */
import { SYS_PIDFD_GETFD, SYS_PIDFD_OPEN } from './abi.ts';
import { lastErrno, libc, libcError } from './bindings.ts';

/**
 * Calls `use` with a descriptor that names the process and is closed afterwards.
 * @returns undefined when there is no such process
 */
export function withPidfd<T>(hostPid: number, use: (pidfd: number) => T): T | undefined {
  const pidfd = libc().syscall(SYS_PIDFD_OPEN, hostPid, 0, 0);
  if (pidfd < 0) {
    if (lastErrno() === 'ESRCH') {
      return undefined;
    }
    throw libcError(`pidfd_open of process ${hostPid}`);
  }
  try {
    return use(pidfd);
  } finally {
    libc().close(pidfd);
  }
}

/**
 * Calls `use` with our own copy of another process's descriptor, closed afterwards. Works on frozen processes.
 * @returns undefined when the process or the descriptor is gone
 */
export function withForeignFd<T>(pidfd: number, fd: number, use: (ownFd: number) => T): T | undefined {
  const own = libc().syscall(SYS_PIDFD_GETFD, pidfd, fd, 0);
  if (own < 0) {
    if (['EBADF', 'ESRCH'].includes(lastErrno())) {
      return undefined;
    }
    throw libcError(`pidfd_getfd of descriptor ${fd}`);
  }
  try {
    return use(own);
  } finally {
    libc().close(own);
  }
}

/*
 * TCP repair mode of another process's sockets, read and ended from outside. A CRIU that dies in a dump leaves its
 * connections in it: the process runs, but its connections are silent.
 */
import { withForeignFd, withPidfd } from '../libc/pidfd.ts';
import { endTcpRepair, isInTcpRepair, isTcpSocket } from '../libc/socket.ts';
import { openFds } from '../proc/fds.ts';

/** Inodes of the process's TCP sockets that are in repair mode; empty when the process is gone. */
export function socketsInRepair(hostPid: number): number[] {
  return eachTcpInRepair(hostPid, () => undefined);
}

/** Ends repair mode on every socket of the process. Idempotent. @returns the inodes that were in it */
export function leaveTcpRepair(hostPid: number): number[] {
  return eachTcpInRepair(hostPid, endTcpRepair);
}

function eachTcpInRepair(hostPid: number, act: (ownFd: number) => void): number[] {
  const sockets = openFds(hostPid).filter((open) => open.kind === 'socket');
  if (sockets.length === 0) {
    return [];
  }
  const inodes = new Set<number>();
  withPidfd(hostPid, (pidfd) => {
    for (const socket of sockets) {
      withForeignFd(pidfd, socket.fd, (own) => {
        if (isTcpSocket(own) && isInTcpRepair(own)) {
          act(own);
          inodes.add(socket.inode ?? 0);
        }
      });
    }
  });
  return [...inodes];
}

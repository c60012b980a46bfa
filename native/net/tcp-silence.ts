/*
 * Ends connections without a word to their peers. A process that is killed closes its sockets, and the kernel says so:
 * FIN or RST go out, and a socket that waits for the answer keeps its addresses taken. A socket in repair mode is
 * dropped silently instead (net/ipv4/tcp.c, __tcp_close), which is how CRIU itself ends the source of a migration.
 */
import { withForeignFd, withPidfd } from '../libc/pidfd.ts';
import { enterTcpRepair, isTcpSocket } from '../libc/socket.ts';
import { openFds } from '../proc/fds.ts';

/**
 * Puts the connected TCP sockets of a process that stands still and is about to be killed into repair mode.
 * @returns how many; 0 when the process is gone
 */
export function silenceConnections(hostPid: number, connectedInodes: ReadonlySet<number>): number {
  let silenced = 0;
  withPidfd(hostPid, (pidfd) => {
    for (const open of openFds(hostPid)) {
      if (open.kind === 'socket' && connectedInodes.has(open.inode ?? 0)) {
        withForeignFd(pidfd, open.fd, (own) => {
          if (isTcpSocket(own)) {
            enterTcpRepair(own);
            silenced += 1;
          }
        });
      }
    }
  });
  return silenced;
}

import {
  AF_INET,
  AF_INET6,
  AF_NETLINK,
  AF_PACKET,
  AF_UNIX,
  IPPROTO_MPTCP,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPPROTO_UDPLITE,
  SOCK_RAW,
} from '../libc/abi.ts';
import { withForeignFd, withPidfd } from '../libc/pidfd.ts';
import { socketKind, type SocketKind } from '../libc/socket.ts';
import { openFds } from '../proc/fds.ts';

export type SocketName = 'unix' | 'tcp' | 'udp' | 'raw' | 'netlink' | 'packet';

export interface OwnedSocket {
  readonly fd: number;
  readonly inode: number;
  /** a kind that CRIU knows (criu/sockets.c), or `other` */
  readonly name: SocketName | 'other';
  /** for people: `tcp`, `mptcp`, `family 40 protocol 0`, ... */
  readonly text: string;
}

function nameOf({ domain, type, protocol }: SocketKind): SocketName | undefined {
  switch (domain) {
    case AF_UNIX:
      return 'unix';
    case AF_NETLINK:
      return 'netlink';
    case AF_PACKET:
      return 'packet';
    case AF_INET:
    case AF_INET6:
      if (type === SOCK_RAW) {
        return 'raw';
      }
      if (protocol === IPPROTO_TCP) {
        return 'tcp';
      }
      return protocol === IPPROTO_UDP || protocol === IPPROTO_UDPLITE ? 'udp' : undefined;
    default:
      return undefined;
  }
}

function textOf({ domain, protocol }: SocketKind): string {
  const names = new Map([
    [IPPROTO_MPTCP, 'mptcp'],
    [IPPROTO_SCTP, 'sctp'],
  ]);
  return names.get(protocol) ?? `family ${domain} protocol ${protocol}`;
}

/**
 * Sockets of a process in the order of their descriptors, asked of the kernel: tables in /proc/net do not list them all.
 * Empty when the process is gone.
 */
export function ownedSockets(hostPid: number): OwnedSocket[] {
  const sockets = openFds(hostPid).filter((open) => open.kind === 'socket');
  const owned = withPidfd(hostPid, (pidfd) =>
    sockets.flatMap((socket) => {
      const kind = withForeignFd(pidfd, socket.fd, socketKind);
      if (kind === undefined) {
        return [];
      }
      const name = nameOf(kind);
      return [
        { fd: socket.fd, inode: socket.inode ?? 0, name: name ?? ('other' as const), text: name ?? textOf(kind) },
      ];
    }),
  );
  return owned ?? [];
}

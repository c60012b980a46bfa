import {
  AF_INET,
  AF_INET6,
  IPPROTO_TCP,
  SO_DOMAIN,
  SO_PROTOCOL,
  SO_TYPE,
  SOL_SOCKET,
  TCP_REPAIR,
  TCP_REPAIR_OFF,
} from './abi.ts';
import { lastErrno, libc, libcError } from './bindings.ts';

function getOption(fd: number, level: number, option: number): number | undefined {
  const value = new Int32Array(1);
  const length = Uint32Array.of(4);
  if (libc().getsockopt(fd, level, option, value, length) === 0) {
    return value[0];
  }
  if (['ENOTSOCK', 'ENOPROTOOPT', 'EOPNOTSUPP'].includes(lastErrno())) {
    return undefined;
  }
  throw libcError(`getsockopt ${level}:${option}`);
}

export interface SocketKind {
  readonly domain: number;
  readonly type: number;
  readonly protocol: number;
}

/** Undefined for a descriptor that is no socket. */
export function socketKind(fd: number): SocketKind | undefined {
  const domain = getOption(fd, SOL_SOCKET, SO_DOMAIN);
  const type = getOption(fd, SOL_SOCKET, SO_TYPE);
  const protocol = getOption(fd, SOL_SOCKET, SO_PROTOCOL);
  return domain === undefined || type === undefined || protocol === undefined ? undefined : { domain, type, protocol };
}

export function isTcpSocket(fd: number): boolean {
  const kind = socketKind(fd);
  return (kind?.domain === AF_INET || kind?.domain === AF_INET6) && kind.protocol === IPPROTO_TCP;
}

/** In repair mode a socket neither sends nor answers: left behind, the connection hangs for ever. */
export function isInTcpRepair(fd: number): boolean {
  return (getOption(fd, IPPROTO_TCP, TCP_REPAIR) ?? 0) !== 0;
}

/** Needs CAP_NET_ADMIN. */
export function endTcpRepair(fd: number): void {
  if (libc().setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, Int32Array.of(TCP_REPAIR_OFF), 4) !== 0) {
    throw libcError(`setsockopt TCP_REPAIR off of descriptor ${fd}`);
  }
}

/** Needs CAP_NET_ADMIN. What CRIU does to every connection that it dumps. */
export function enterTcpRepair(fd: number): void {
  if (libc().setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, Int32Array.of(1), 4) !== 0) {
    throw libcError(`setsockopt TCP_REPAIR on of descriptor ${fd}`);
  }
}

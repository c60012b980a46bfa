/*
 * Sockets that keep the bounds of messages and carry descriptors: what CRIU's RPC speaks. Node's own streams know no
 * SOCK_SEQPACKET. Sources: socketpair(2), unix(7), cmsg(3), recvmsg(2).
 */
import {
  AF_UNIX,
  MSG_CMSG_CLOEXEC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  POLLIN,
  SCM_RIGHTS,
  SOCK_CLOEXEC,
  SOCK_SEQPACKET,
  SOL_SOCKET,
} from './abi.ts';
import { lastErrno, libc, libcError } from './bindings.ts';

/** struct cmsghdr on 64 bits: length 8, level 4, type 4. */
const CONTROL_HEADER_BYTES = 16;
/** Room for two descriptors; whoever sends more of them is not CRIU. */
const CONTROL_BYTES = CONTROL_HEADER_BYTES + 8;
const POLLFD_BYTES = 8;

export interface Packet {
  readonly data: Buffer;
  /** ours to close */
  readonly fds: readonly number[];
}

/** Two connected ends, both closed on exec. @throws Internal */
export function seqpacketPair(): readonly [number, number] {
  const fds = new Int32Array(2);
  if (libc().socketpair(AF_UNIX, SOCK_SEQPACKET + SOCK_CLOEXEC, 0, fds) !== 0) {
    throw libcError('socketpair');
  }
  return [fds[0] ?? -1, fds[1] ?? -1];
}

/** @throws Internal when the other end is gone */
export function sendPacket(fd: number, data: Uint8Array): void {
  if (libc().send(fd, data, data.length, MSG_NOSIGNAL) !== data.length) {
    throw libcError('send');
  }
}

/**
 * Waits for one message, on another thread.
 * @returns `closed` when the other end is gone, undefined when none came in time
 * @throws Internal
 */
export async function receivePacket(
  fd: number,
  options: { readonly timeoutMs: number; readonly maxBytes: number },
): Promise<Packet | 'closed' | undefined> {
  const pollfd = Buffer.alloc(POLLFD_BYTES);
  pollfd.writeInt32LE(fd, 0);
  pollfd.writeInt16LE(POLLIN, 4);
  return (await libc().poll(pollfd, options.timeoutMs)) > 0 ? take(fd, options.maxBytes) : undefined;
}

function take(fd: number, maxBytes: number): Packet | 'closed' | undefined {
  const data = Buffer.alloc(maxBytes);
  const control = Buffer.alloc(CONTROL_BYTES);
  const iov = [{ base: data, bytes: maxBytes }];
  const message = { name: null, namelen: 0, iov, iovlen: 1, control, controllen: CONTROL_BYTES, flags: 0 } as const;
  const received = libc().recvmsg(fd, { ...message }, MSG_DONTWAIT + MSG_CMSG_CLOEXEC);
  if (received < 0) {
    const errno = lastErrno();
    if (errno === 'EAGAIN') {
      return undefined;
    }
    if (errno === 'ECONNRESET') {
      return 'closed';
    }
    throw libcError('recvmsg');
  }
  return received === 0 ? 'closed' : { data: data.subarray(0, received), fds: descriptorsIn(control) };
}

/** A buffer of zeros, which nothing was written to, has none. */
function descriptorsIn(control: Buffer): number[] {
  const bytes = Number(control.readBigUInt64LE(0));
  const isRights = control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS;
  if (!isRights || bytes > control.length) {
    return [];
  }
  const count = Math.floor((bytes - CONTROL_HEADER_BYTES) / 4);
  return Array.from({ length: count }, (_, index) => control.readInt32LE(CONTROL_HEADER_BYTES + 4 * index));
}

import { SO_PEERCRED, SOL_SOCKET } from './abi.ts';
import { libc, libcError } from './bindings.ts';

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/**
 * Who connected, as the kernel knows it from the moment of the connect.
 * @param fd of a connected unix socket
 * Source: unix(7), struct ucred of three 32-bit numbers.
 */
export function peerCredentials(fd: number): PeerCredentials {
  const credentials = new Int32Array(3);
  const length = Uint32Array.of(credentials.byteLength);
  if (libc().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length) !== 0) {
    throw libcError(`getsockopt SO_PEERCRED of descriptor ${fd}`);
  }
  const [pid = -1, uid = -1, gid = -1] = credentials;
  return { pid, uid: uid >>> 0, gid: gid >>> 0 };
}

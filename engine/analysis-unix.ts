/*
 * Unix sockets with an end outside of the container. CRIU dumps such an end only for datagrams to a named socket of the
 * same network namespace. Source: criu/sk-unix.c, __dump_external_socket and dump_one_unix_fd.
 */
import type { Subject } from './analysis-process.ts';
import type { UnixPeer } from '../native/net/unix-peers.ts';
import { openFds } from '../native/proc/fds.ts';
import { listProcesses } from '../native/proc/tree.ts';

export interface UnixFindings {
  /** why ext-unix-sk is needed; absent when it is not */
  readonly externalDatagram?: string;
  readonly refusals: readonly string[];
}

interface Owner {
  readonly hostPid: number;
  readonly command: string;
  /** of one of the tree's own */
  readonly fd?: number;
}

interface UnixOptions {
  /** who outside has a socket; a socket that nobody has lies in a queue, and CRIU takes it with its queue */
  readonly ownerOf?: (inode: number) => Owner | undefined;
  readonly subject?: Subject;
}

/**
 * @param inodes the tree's own unix sockets, with a process that has it
 * @param peers of the container's network namespace
 */
export function unixFindings(
  inodes: ReadonlyMap<number, Owner>,
  peers: readonly UnixPeer[],
  { ownerOf = findOwner, subject = 'container' }: UnixOptions = {},
): UnixFindings {
  const known = new Map(peers.map((peer) => [peer.inode, peer]));
  const refusals: string[] = [];
  let externalDatagram: string | undefined;
  for (const [inode, owner] of inodes) {
    const peerInode = known.get(inode)?.peerInode ?? 0;
    if (peerInode === 0 || inodes.has(peerInode)) {
      continue;
    }
    const far = known.get(peerInode);
    const outside = ownerOf(peerInode);
    if (outside === undefined) {
      continue;
    }
    const name = `process ${owner.hostPid} (${owner.command})`;
    const other = `process ${outside.hostPid} (${outside.command}) outside of the ${subject === 'process' ? 'tree' : subject}`;
    if (far?.type === 'datagram' && far.path !== undefined) {
      externalDatagram ??= `${name} sends datagrams to ${far.path} of ${other}`;
    } else {
      const why = far === undefined ? 'in another network namespace' : `by a ${far.type} socket`;
      const which = owner.fd === undefined ? '' : ` (descriptor ${owner.fd})`;
      refusals.push(
        `${name} is connected ${why}${which} to ${other}, and CRIU cannot dump half of it: close the connection`,
      );
    }
  }
  return { refusals, ...(externalDatagram === undefined ? {} : { externalDatagram }) };
}

function findOwner(inode: number): Owner | undefined {
  return listProcesses().find((process) =>
    openFds(process.hostPid).some((open) => open.kind === 'socket' && open.inode === inode),
  );
}

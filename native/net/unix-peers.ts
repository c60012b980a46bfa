/* Who is connected to whom by unix sockets: only sock_diag(7) tells, which `ss` of iproute2 asks. */
import type { Run } from '../run/run.ts';

export interface UnixPeer {
  readonly type: 'stream' | 'datagram' | 'seqpacket' | 'other';
  readonly inode: number;
  /** 0 when it is not connected, or when the other end waits to be accepted */
  readonly peerInode: number;
  /** absent for an unnamed socket */
  readonly path?: string;
}

const TYPES: Readonly<Record<string, UnixPeer['type']>> = { u_str: 'stream', u_dgr: 'datagram', u_seq: 'seqpacket' };

/** @param text output of `ss --unix --all --numeric --no-header` */
export function parseSs(text: string): UnixPeer[] {
  return text.split('\n').flatMap((line) => {
    const match = /^(u_\S+)\s+\S+\s+\d+\s+\d+\s+(.*?) (\d+)\s+(?:.*?) (\d+)\s*$/.exec(line);
    if (match === null) {
      return [];
    }
    const [, type = '', path = '*', inode, peerInode] = match;
    return [
      {
        type: TYPES[type] ?? 'other',
        inode: Number(inode),
        peerInode: Number(peerInode),
        ...(path === '*' ? {} : { path }),
      },
    ];
  });
}

/** Unix sockets of a process's network namespace; undefined when `ss` is not installed. */
export async function unixPeers(run: Run, hostPid: number): Promise<UnixPeer[] | undefined> {
  const args = [`--net=/proc/${hostPid}/ns/net`, '--', 'ss', '--unix', '--all', '--numeric', '--no-header'];
  const result = await run('nsenter', args, { timeoutMs: 10_000, maxOutputBytes: 16 * 1024 * 1024 });
  return result.exitCode === 0 ? parseSs(result.stdout) : undefined;
}

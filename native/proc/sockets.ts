/* TCP sockets of a process's network namespace. Sources: proc_net(5), include/net/tcp_states.h. */
import { readProc } from './read.ts';

/** In the order of the kernel's numbers, 1 first. */
const TCP_STATES = [
  'established',
  'syn-sent',
  'syn-received',
  'fin-wait-1',
  'fin-wait-2',
  'time-wait',
  'closed',
  'close-wait',
  'last-ack',
  'listen',
  'closing',
  'new-syn-received',
] as const;
export type TcpState = (typeof TCP_STATES)[number];

export interface Endpoint {
  /** as nft and ss write it; IPv4-mapped IPv6 addresses as IPv4, which is what is on the wire */
  readonly address: string;
  readonly port: number;
}

export interface TcpSocket {
  readonly family: 4 | 6;
  readonly local: Endpoint;
  readonly remote: Endpoint;
  readonly state: TcpState;
  /** 0 when no process owns it any more (time-wait) */
  readonly inode: number;
}

/** /proc prints an address as 32-bit words in the machine's byte order; every supported machine is little endian. */
export function parseAddress(hex: string): string {
  const bytes = Buffer.from(hex, 'hex');
  for (let word = 0; word < bytes.length; word += 4) {
    bytes.subarray(word, word + 4).reverse();
  }
  if (bytes.length === 4) {
    return [...bytes].join('.');
  }
  const mapped = bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff;
  if (mapped) {
    return [...bytes.subarray(12)].join('.');
  }
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16));
  return compressZeros(groups);
}

/** RFC 5952: the longest run of two or more zero groups becomes `::`. */
function compressZeros(groups: readonly string[]): string {
  let best = { start: -1, length: 1 };
  for (let start = 0; start < groups.length; start += 1) {
    let length = 0;
    while (groups[start + length] === '0') {
      length += 1;
    }
    if (length > best.length) {
      best = { start, length };
    }
  }
  if (best.start === -1) {
    return groups.join(':');
  }
  return `${groups.slice(0, best.start).join(':')}::${groups.slice(best.start + best.length).join(':')}`;
}

function parseEndpoint(text: string): Endpoint {
  const [address, port] = text.split(':');
  return { address: parseAddress(address ?? ''), port: Number.parseInt(port ?? '0', 16) };
}

export function parseTcpTable(text: string): TcpSocket[] {
  return text
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const fields = line.trim().split(/\s+/);
      const [, localText, remoteText, stateText] = fields;
      const state = TCP_STATES[Number.parseInt(stateText ?? '', 16) - 1];
      if (localText === undefined || remoteText === undefined || state === undefined) {
        return [];
      }
      const local = parseEndpoint(localText);
      const remote = parseEndpoint(remoteText);
      const family = remote.address.includes(':') || local.address.includes(':') ? 6 : 4;
      return [{ family, local, remote, state, inode: Number(fields[9] ?? 0) } satisfies TcpSocket];
    });
}

/** TCP sockets of the network namespace that this process lives in, IPv4 and IPv6. */
export function tcpSockets(hostPid: number): TcpSocket[] {
  return ['tcp', 'tcp6'].flatMap((name) => parseTcpTable(readProc(`/proc/${hostPid}/net/${name}`) ?? ''));
}

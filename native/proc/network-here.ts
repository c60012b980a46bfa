/* Addresses and listening sockets of a network namespace that has no process of ours. Sources: proc_net(5), net/ipv4/fib_trie.c. */
import type { Run } from '../run/run.ts';
import { readProc } from './read.ts';
import { parseAddress, parseTcpTable, type Endpoint } from './sockets.ts';

export interface NetworkState {
  readonly listening: readonly Endpoint[];
  readonly addresses: ReadonlySet<string>;
}

const TABLES = ['tcp', 'tcp6', 'fib_trie', 'if_inet6'] as const;
type Tables = Readonly<Record<(typeof TABLES)[number], string>>;

/** Of the machine itself. */
export function hostNetwork(): NetworkState {
  const read = (name: string): string => readProc(`/proc/1/net/${name}`) ?? '';
  return stateIn({ tcp: read('tcp'), tcp6: read('tcp6'), fib_trie: read('fib_trie'), if_inet6: read('if_inet6') });
}

/** @returns undefined when the namespace cannot be entered */
export async function networkAt(run: Run, path: string): Promise<NetworkState | undefined> {
  const files = TABLES.map((name) => `/proc/self/net/${name}`);
  // Every line comes with the name of its file; without IPv6 two of them are missing.
  const { stdout, stderr, startError } = await run('nsenter', [`--net=${path}`, '--', 'grep', '-sH', '', ...files], {
    timeoutMs: 5000,
    maxOutputBytes: 8 * 1024 * 1024,
  });
  return startError !== undefined || stderr.includes('nsenter') ? undefined : stateIn(tablesIn(stdout));
}

function tablesIn(text: string): Tables {
  const lines = text.split('\n');
  const of = (name: string): string => {
    const prefix = `/proc/self/net/${name}:`;
    return lines.flatMap((line) => (line.startsWith(prefix) ? [line.slice(prefix.length)] : [])).join('\n');
  };
  return { tcp: of('tcp'), tcp6: of('tcp6'), fib_trie: of('fib_trie'), if_inet6: of('if_inet6') };
}

export function stateIn({ tcp, tcp6, fib_trie: trie, if_inet6: inet6 }: Tables): NetworkState {
  const sockets = [...parseTcpTable(tcp), ...parseTcpTable(tcp6)];
  const addresses4 = [...trie.matchAll(/\|-- (\d+\.\d+\.\d+\.\d+)\n\s*\/32 host LOCAL/g)].map(([, address]) => address);
  const addresses6 = inet6.split('\n').flatMap((line) => /^[0-9a-f]{32}/.exec(line)?.[0] ?? []);
  return {
    listening: sockets.filter(({ state }) => state === 'listen').map(({ local }) => local),
    addresses: new Set([...addresses4.flatMap((address) => address ?? []), ...addresses6.map(inNetworkOrder)]),
  };
}

/** if_inet6 prints bytes as they are on the wire, the tables of sockets words of the machine. */
function inNetworkOrder(hex: string): string {
  return parseAddress(hex.replaceAll(/(..)(..)(..)(..)/g, '$4$3$2$1'));
}

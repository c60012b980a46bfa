/*
 * nftables of a network namespace, by the program `nft` inside `nsenter`.
 *
 * What CRIU 4.2.1 itself makes (criu/net.c, criu/netfilter.c): a table `inet CRIU-<run id>`, the run id cut to 21
 * characters. In a private namespace its chains drop everything but packets with CRIU's mark; with the host's network
 * they drop the captured connections alone. A CRIU that is killed leaves its table behind.
 */
import { KybernateError } from '../../core/errors.ts';
import type { Run, RunResult } from '../run/run.ts';
import type { Endpoint } from '../proc/sockets.ts';

export interface NftTable {
  readonly family: string;
  readonly name: string;
}

/** Both ends of a connection, as its process sees them. */
export interface Connection {
  readonly local: Endpoint;
  readonly remote: Endpoint;
}

/** A process that lives in the namespace, or a path such as /var/run/netns/x. */
export type NetworkNamespaceRef = number | string;

/** Packets that CRIU sends while it restores a connection carry it. Source: soccr/soccr.h, SOCCR_MARK. */
const CRIU_MARK = '0xc114';
/** `char table[32]` in CRIU holds `inet CRIU-` and what is left of the run id. */
const RUN_ID_CHARACTERS = 21;
const TIMEOUT_MS = 10_000;

/** @param runId from `criuRunId` of native/criu/log.ts */
export function criuTableName(runId: string): string {
  return `CRIU-${runId.slice(0, RUN_ID_CHARACTERS)}`;
}

/** A table of any CRIU, of ours or of another operation in the same namespace. */
export function isCriuTable(table: NftTable): boolean {
  return table.family === 'inet' && table.name.startsWith('CRIU-');
}

function namespacePath(namespace: NetworkNamespaceRef): string {
  return typeof namespace === 'number' ? `/proc/${namespace}/ns/net` : namespace;
}

async function nft(
  run: Run,
  namespace: NetworkNamespaceRef,
  args: readonly string[],
  input?: string,
): Promise<RunResult> {
  return run('nsenter', [`--net=${namespacePath(namespace)}`, '--', 'nft', ...args], {
    timeoutMs: TIMEOUT_MS,
    maxOutputBytes: 4 * 1024 * 1024,
    ...(input === undefined ? {} : { input }),
  });
}

/** nsenter's words for a namespace that is gone, nft's for a table that is. */
function isAbsent(result: RunResult): boolean {
  return (
    result.exitCode !== 0 && /No such (?:file or directory|process)/.test(result.stderr) && !programMissing(result)
  );
}

function programMissing(result: RunResult): boolean {
  return result.startError !== undefined || /failed to execute/.test(result.stderr);
}

function nftFailed(what: string, namespace: NetworkNamespaceRef, result: RunResult): KybernateError {
  const why = programMissing(result)
    ? 'nft or nsenter is not installed (packages nftables, util-linux)'
    : result.timedOut
      ? `no answer in ${TIMEOUT_MS} ms`
      : result.stderr.trim();
  return new KybernateError('Internal', `nft: cannot ${what} in ${namespacePath(namespace)}: ${why}`);
}

/** Tables of the namespace; none when the namespace (its process) is gone. */
export async function listTables(run: Run, namespace: NetworkNamespaceRef): Promise<NftTable[]> {
  const result = await nft(run, namespace, ['--json', 'list', 'tables']);
  if (isAbsent(result)) {
    return [];
  }
  if (result.exitCode !== 0) {
    throw nftFailed('list the tables', namespace, result);
  }
  const answer = JSON.parse(result.stdout) as { nftables: { table?: NftTable }[] };
  return answer.nftables.flatMap(({ table }) =>
    table === undefined ? [] : [{ family: table.family, name: table.name }],
  );
}

interface NftObject {
  readonly set?: { readonly name: string; readonly elem?: readonly unknown[] };
  readonly chain?: { readonly policy?: string };
  readonly rule?: { readonly expr: ReadonlyArray<Readonly<Record<string, unknown>>> };
}

/**
 * Can the table drop a packet? One of CRIU that names connections and has none left does nothing. Whatever is not known
 * to be harmless counts as a drop; a table that is gone does not.
 */
export async function dropsPackets(run: Run, namespace: NetworkNamespaceRef, table: NftTable): Promise<boolean> {
  const result = await nft(run, namespace, ['--json', 'list', 'table', table.family, table.name]);
  if (isAbsent(result)) {
    return false;
  }
  if (result.exitCode !== 0) {
    throw nftFailed(`list the table ${table.family} ${table.name}`, namespace, result);
  }
  const { nftables } = JSON.parse(result.stdout) as { nftables: readonly NftObject[] };
  const empty = new Set(
    nftables.flatMap(({ set }) => (set !== undefined && (set.elem ?? []).length === 0 ? [`@${set.name}`] : [])),
  );
  const isHarmless = ({ expr }: NonNullable<NftObject['rule']>): boolean =>
    expr.some((part) => {
      const { op, right } = (part['match'] ?? {}) as { op?: unknown; right?: unknown };
      return 'accept' in part || (op === '==' && typeof right === 'string' && empty.has(right));
    });
  return nftables.some(
    ({ chain, rule }) => (chain?.policy ?? 'accept') !== 'accept' || (rule !== undefined && !isHarmless(rule)),
  );
}

/** An absent table, or a namespace that is gone, is success. */
export async function deleteTable(run: Run, namespace: NetworkNamespaceRef, table: NftTable): Promise<void> {
  const result = await nft(run, namespace, ['delete', 'table', table.family, table.name]);
  if (result.exitCode !== 0 && !isAbsent(result)) {
    throw nftFailed(`delete the table ${table.family} ${table.name}`, namespace, result);
  }
}

/**
 * Drops every packet of these connections, both ways, until the table is deleted: their peers see a network that lost
 * packets for a while, not a reset. Packets of a CRIU that restores them pass.
 *
 * @param name of the table, family `inet`; made anew when it exists
 */
export async function holdConnections(
  run: Run,
  namespace: NetworkNamespaceRef,
  name: string,
  connections: readonly Connection[],
): Promise<void> {
  const result = await nft(run, namespace, ['--file', '-'], holdRules(name, connections));
  if (result.exitCode !== 0) {
    throw nftFailed(`hold ${connections.length} connections by the table ${name}`, namespace, result);
  }
}

export function holdRules(name: string, connections: readonly Connection[]): string {
  const elements = (family: 4 | 6): string => {
    const wanted = connections.filter(({ remote }) => (remote.address.includes(':') ? 6 : 4) === family);
    const both = wanted.flatMap(({ local, remote }) => [element(local, remote), element(remote, local)]);
    return both.length === 0 ? '' : `elements = { ${[...new Set(both)].join(', ')} };`;
  };
  const chain = (hook: string): string =>
    `chain ${hook} { type filter hook ${hook} priority 0; meta mark ${CRIU_MARK} accept; ` +
    'ip saddr . tcp sport . ip daddr . tcp dport @conns4 drop; ' +
    'ip6 saddr . tcp sport . ip6 daddr . tcp dport @conns6 drop; }';
  return [
    // declared first, so that the delete never fails
    `table inet ${name}`,
    `delete table inet ${name}`,
    `table inet ${name} {`,
    `set conns4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; ${elements(4)} }`,
    `set conns6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; ${elements(6)} }`,
    chain('input'),
    chain('output'),
    '}',
    '',
  ].join('\n');
}

function element(from: Endpoint, to: Endpoint): string {
  return `${from.address} . ${from.port} . ${to.address} . ${to.port}`;
}

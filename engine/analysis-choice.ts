/*
 * The parts of an analysis that containers and process trees share: what was found in the processes, and the options that
 * it makes necessary.
 */
import { ownedSockets } from '../native/net/socket-kinds.ts';
import { unixPeers } from '../native/net/unix-peers.ts';
import type { CriuConfigOption } from '../native/criu/config-file.ts';
import { tcpSockets, type TcpSocket } from '../native/proc/sockets.ts';
import type { Analysis, AnalysisRequest, ChosenOption } from './analysis-result.ts';
import type { DeletedFile, ProcessSurvey, Subject } from './analysis-process.ts';
import { findWatches } from './analysis-watches.ts';
import { unixFindings } from './analysis-unix.ts';
import type { ContainerFacts } from './container-facts.ts';
import type { NodeDeps } from './node-deps.ts';

/** What CRIU takes of one deleted file without the option. Source: criu/include/cr_options.h. */
const DEFAULT_GHOST_LIMIT = 1024 * 1024;
/** Room for a file that is written to until the freeze. */
const GHOST_GROWTH = 1.5;
/** States that CRIU dumps only with tcp-established or tcp-close. Source: criu/sk-inet.c, can_dump_inet_sk. */
const CONNECTED: ReadonlySet<TcpSocket['state']> = new Set([
  'established',
  'fin-wait-1',
  'fin-wait-2',
  'close-wait',
  'last-ack',
  'closing',
  'syn-sent',
]);

export class Choice {
  readonly options: ChosenOption[] = [];
  readonly runcFlags: string[] = [];
  readonly config: CriuConfigOption[] = [];

  flag(option: string, reason: string, value?: string): void {
    this.options.push({ option: value === undefined ? option : `${option} ${value}`, reason });
    this.runcFlags.push(`--${option}`, ...(value === undefined ? [] : [value]));
  }

  configure(option: string, reason: string, value?: string): void {
    this.options.push({ option: value === undefined ? option : `${option} ${value}`, reason });
    this.config.push({ option, ...(value === undefined ? {} : { value }) });
  }
}

export function chooseTcp(
  facts: ContainerFacts,
  request: AnalysisRequest,
  choice: Choice,
  warnings: string[],
): Pick<Analysis, 'tcpPorts' | 'networkLock' | 'listening' | 'connectedAddresses'> {
  const owned = new Set(
    facts.processes.flatMap((process) => ownedSockets(process.hostPid).map((socket) => socket.inode)),
  );
  const sockets = tcpSockets(facts.initHostPid).filter((socket) => owned.has(socket.inode));
  const connected = sockets.filter((socket) => CONNECTED.has(socket.state));
  const listening = sockets.filter((socket) => socket.state === 'listen');
  // With keep the option is given even when nothing is connected now: a client may come before the freeze.
  const mayConnect = sockets.length > 0;
  if (mayConnect && request.tcp === 'close') {
    choice.configure('tcp-close', `tcp: close was asked; ${connected.length} connections come back closed`);
  } else if (mayConnect) {
    choice.flag(
      'tcp-established',
      `${connected.length} established TCP connections, ${listening.length} listening sockets`,
    );
  }
  if (listening.length > 0) {
    choice.flag(
      'tcp-skip-in-flight',
      'a client that connects during the dump tries again, instead of failing the dump',
    );
  }
  const networkLock = mayConnect && request.tcp === 'keep' ? 'nftables' : 'skip';
  choice.configure(
    'network-lock',
    networkLock === 'skip' ? 'no TCP state is dumped' : 'no packet may change a connection while it is dumped',
    networkLock,
  );
  if (request.tcp === 'keep' && request.after === 'stop' && connected.length > 0 && facts.networkNamespace.private) {
    warnings.push('the network namespace ends with the container: its connections cannot be restored, peers reconnect');
  }
  return {
    tcpPorts: [...new Set(sockets.map(({ local }) => local.port))],
    listening: listening.map(({ local }) => local),
    connectedAddresses: [...new Set(connected.map(({ local }) => local.address))],
    networkLock,
  };
}

export async function chooseUnix(
  deps: Pick<NodeDeps, 'run'>,
  facts: Pick<ContainerFacts, 'initHostPid'>,
  surveys: readonly ProcessSurvey[],
  out: { readonly choice: Choice; readonly warnings: string[]; readonly refusals: string[]; readonly subject: Subject },
): Promise<void> {
  const inodes = new Map(
    surveys.flatMap(({ process, sockets }) =>
      sockets
        .filter(({ name }) => name === 'unix')
        .map(({ inode, fd }) => [inode, { hostPid: process.hostPid, command: process.command, fd }] as const),
    ),
  );
  if (inodes.size === 0) {
    return;
  }
  const peers = await unixPeers(deps.run, facts.initHostPid);
  if (peers === undefined) {
    out.warnings.push('ss (package iproute2) is not installed: unix connections to the outside were not looked for');
    return;
  }
  const findings = unixFindings(inodes, peers, { subject: out.subject });
  out.refusals.push(...findings.refusals);
  if (findings.externalDatagram !== undefined) {
    out.choice.flag('ext-unix-sk', findings.externalDatagram);
  }
}

export async function chooseWatches(
  deps: Pick<NodeDeps, 'run'>,
  tree: ReadonlyArray<{ readonly hostPid: number }>,
  out: { readonly choice: Choice; readonly warnings: string[] },
): Promise<void> {
  const watches = await findWatches(
    deps.run,
    tree.map((process) => process.hostPid),
  );
  for (const path of watches.paths) {
    if (/[\s#"\\]/.test(path)) {
      out.warnings.push(`${path} is watched, and its name cannot be told to CRIU: the dump may be refused`);
    } else {
      out.choice.configure(
        'irmap-scan-path',
        'it is watched by inotify on an overlay, which opens no file handles',
        path,
      );
    }
  }
  if (watches.lost.length > 0) {
    out.warnings.push(`${watches.lost.length} watched files were not found below the root: the dump may be refused`);
  }
}

/** @returns one that has a name elsewhere: CRIU will make a link for it */
export function chooseFiles(surveys: readonly ProcessSurvey[], choice: Choice): DeletedFile | undefined {
  const deleted = surveys.flatMap((survey) => survey.deletedFiles);
  const linked = deleted.find((file) => file.links > 0);
  if (linked !== undefined) {
    choice.flag('link-remap', `${linked.path} is open, has lost its name and exists under another one`);
  }
  const largest = Math.max(0, ...deleted.map((file) => file.bytes));
  if (largest * GHOST_GROWTH > DEFAULT_GHOST_LIMIT) {
    const limit = Math.ceil((largest * GHOST_GROWTH) / 4096) * 4096;
    choice.configure('ghost-limit', `a deleted file of ${largest} bytes is still open`, String(limit));
  }
  const locks = surveys.reduce((sum, survey) => sum + survey.locks, 0);
  if (locks > 0) {
    choice.flag('file-locks', `${locks} file locks are held`);
  }
  return linked;
}

export function chooseTerminal(
  facts: Pick<ContainerFacts, 'stdio'>,
  tree: ReadonlyArray<{ readonly hostPid: number; readonly sessionHostPid: number; readonly command: string }>,
  choice: Choice,
): void {
  const inside = new Set(tree.map((process) => process.hostPid));
  const led = tree.find((process) => process.sessionHostPid !== 0 && !inside.has(process.sessionHostPid));
  if (facts.stdio.terminal) {
    choice.flag('shell-job', 'its terminal is held from outside');
  } else if (led !== undefined) {
    choice.flag('shell-job', `the session of ${led.command} (${led.hostPid}) is led from outside`);
  }
}

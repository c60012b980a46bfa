/*
 * What the processes of a container hold decides how CRIU is called: as few options as possible, each with its reason,
 * and every reason why it cannot be called at all, before anything is touched.
 */
import { ownedSockets } from '../native/net/socket-kinds.ts';
import { unixPeers } from '../native/net/unix-peers.ts';
import type { CriuConfigOption } from '../native/criu/config-file.ts';
import { criuConfigText } from '../native/criu/config-file.ts';
import { hugePagesOf, type HugePageUse } from '../native/proc/huge-pages.ts';
import { tcpSockets, type Endpoint, type TcpSocket } from '../native/proc/sockets.ts';
import { surveyProcess, type ProcessSurvey } from './analysis-process.ts';
import { findWatches } from './analysis-watches.ts';
import { unixFindings } from './analysis-unix.ts';
import type { ContainerFacts } from './container-facts.ts';
import { dockerRefusals } from './docker/source.ts';
import { estimateBytes } from './estimate.ts';
import { type HookMount, hookMountsOf } from './gpu/hook-mounts.ts';
import type { NodeDeps } from './node-deps.ts';

export interface AnalysisRequest {
  readonly engine: 'runc' | 'containerd';
  readonly tcp: 'keep' | 'close';
  readonly after: 'resume' | 'hold' | 'stop';
}

export interface ChosenOption {
  /** as in CRIU's own words, with its value: `tcp-established`, `ghost-limit 4194304` */
  readonly option: string;
  readonly reason: string;
}

export interface Analysis {
  readonly options: readonly ChosenOption[];
  /** those that runc must be told: what it sends to CRIU overrules the configuration file */
  readonly runcFlags: readonly string[];
  /** lines of the file that CRIU_CONFIG_FILE names */
  readonly criuConfig: readonly string[];
  /** CRIU will make `link_remap.*` files, which the diff of the rw layer must take in the post-dump script */
  readonly linkRemap: boolean;
  /** local ports of its TCP sockets, each once */
  readonly tcpPorts: readonly number[];
  /** where it listens, and its own addresses of open connections; absent in plans of an older version */
  readonly listening?: readonly Endpoint[];
  readonly connectedAddresses?: readonly string[];
  /** memory in reserved huge pages, by the size of a page; absent in plans of an older version */
  readonly hugePages?: readonly HugePageUse[];
  /** network lock that CRIU will use */
  readonly networkLock: 'nftables' | 'skip';
  /** host pids of those that have descriptors or mappings of NVIDIA devices; what they are, the driver is asked */
  readonly gpuHolders: readonly number[];
  /** mounts of the driver that the specification does not know; absent without any */
  readonly hookMounts?: readonly HookMount[];
  /** memory, rw layer and tmpfs of the tree: what the checkpoint will take, roughly, before any compression */
  readonly estimatedBytes: number;
  readonly warnings: readonly string[];
  /** why CRIU cannot dump this container, each with its fix; empty when it can */
  readonly refusals: readonly string[];
}

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

class Choice {
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

/** Reads only; the workload runs on. What it finds may change until the freeze: CRIU has the last word. */
export async function analyzeContainer(
  deps: Pick<NodeDeps, 'run'>,
  facts: ContainerFacts,
  request: AnalysisRequest,
): Promise<Analysis> {
  const tree = facts.processes.filter((process) => !process.entered);
  const surveys = tree.map((process) => surveyProcess(process));
  const choice = new Choice();
  const warnings: string[] = [];
  const refusals = [...surveys.flatMap((survey) => survey.refusals), ...containerRefusals(facts, request)];

  choice.flag('manage-cgroups-mode', 'the cgroup of a restored container is made by its runtime', 'ignore');
  const tcp = chooseTcp(facts, request, choice, warnings);
  await chooseUnix(deps, facts, surveys, { choice, warnings, refusals });
  await chooseWatches(deps, tree, { choice, warnings });
  const linkRemap = chooseFiles(facts, surveys, choice, refusals);
  chooseTerminal(facts, tree, choice);
  const usesGpu = surveys.some((survey) => survey.usesGpu);
  const hooks = usesGpu ? chooseHookMounts(facts, choice, refusals) : [];
  refusals.push(...engineRefusals(request, choice, { linkRemap, usesGpu }));
  warnings.push(...containerWarnings(facts));
  return {
    options: choice.options,
    runcFlags: choice.runcFlags,
    criuConfig: criuConfigText(choice.config)
      .split('\n')
      .filter((line) => line !== ''),
    linkRemap,
    ...tcp,
    hugePages: hugePagesOf(tree.map(({ hostPid }) => hostPid)),
    ...(hooks.length === 0 ? {} : { hookMounts: hooks }),
    gpuHolders: surveys.filter((survey) => survey.usesGpu).map(({ process }) => process.hostPid),
    estimatedBytes: await estimateBytes(deps.run, facts, surveys),
    warnings,
    refusals,
  };
}

function chooseTcp(
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

function chooseHookMounts(facts: ContainerFacts, choice: Choice, refusals: string[]): readonly HookMount[] {
  const found = hookMountsOf(facts);
  refusals.push(...found.refusals);
  for (const { destination } of found.mounts) {
    choice.configure('external', 'a hook mounted it: its content stays outside', `mnt[${destination}]:${destination}`);
  }
  return found.mounts;
}

async function chooseUnix(
  deps: Pick<NodeDeps, 'run'>,
  facts: ContainerFacts,
  surveys: readonly ProcessSurvey[],
  out: { readonly choice: Choice; readonly warnings: string[]; readonly refusals: string[] },
): Promise<void> {
  const inodes = new Map(
    surveys.flatMap(({ process, sockets }) =>
      sockets.filter((socket) => socket.name === 'unix').map((socket) => [socket.inode, process] as const),
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
  const findings = unixFindings(inodes, peers);
  out.refusals.push(...findings.refusals);
  if (findings.externalDatagram !== undefined) {
    out.choice.flag('ext-unix-sk', findings.externalDatagram);
  }
}

async function chooseWatches(
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

function chooseFiles(
  facts: ContainerFacts,
  surveys: readonly ProcessSurvey[],
  choice: Choice,
  refusals: string[],
): boolean {
  const deleted = surveys.flatMap((survey) => survey.deletedFiles);
  const linked = deleted.find((file) => file.links > 0);
  if (linked !== undefined) {
    choice.flag('link-remap', `${linked.path} is open, has lost its name and exists under another one`);
    if (facts.upperDir === undefined) {
      refusals.push(
        `${linked.path} is open without its name: the snapshotter ${facts.record.snapshotter} has no directory in which ` +
          'CRIU could keep it; close the file or use the overlayfs snapshotter',
      );
    }
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
  return linked !== undefined;
}

function chooseTerminal(
  facts: ContainerFacts,
  tree: ReadonlyArray<{ readonly hostPid: number; readonly sessionHostPid: number; readonly command: string }>,
  choice: Choice,
): void {
  const inside = new Set(tree.map((process) => process.hostPid));
  const led = tree.find((process) => process.sessionHostPid !== 0 && !inside.has(process.sessionHostPid));
  if (facts.stdio.terminal) {
    choice.flag('shell-job', 'the terminal of the container is held from outside');
  } else if (led !== undefined) {
    choice.flag('shell-job', `the session of ${led.command} (${led.hostPid}) is led from outside`);
  }
}

function containerRefusals(facts: ContainerFacts, request: AnalysisRequest): string[] {
  const refusals: string[] = [];
  if (request.engine === 'runc' && facts.bundle === undefined) {
    refusals.push(
      `runc does not know the container below ${facts.runcRoot} (runtime ${facts.record.runtime.name}): ` +
        'use engine "containerd", or a runc runtime',
    );
  }
  if (facts.docker !== undefined) {
    refusals.push(...dockerRefusals(facts.docker, request.after));
  }
  if (facts.foreignHostPids.length > 0) {
    refusals.push(
      `its cgroup ${facts.freezer.path} also holds processes of others (${facts.foreignHostPids.slice(0, 5).join(', ')}), ` +
        'which a freeze would stop: give the container a cgroup of its own',
    );
  }
  return refusals;
}

/** containerd passes four flags on and no configuration. */
function engineRefusals(
  request: AnalysisRequest,
  choice: Choice,
  { linkRemap, usesGpu }: { readonly linkRemap: boolean; readonly usesGpu: boolean },
): string[] {
  if (request.engine === 'runc') {
    return [];
  }
  const needed = choice.config.filter(({ option }) => ['ghost-limit', 'tcp-close', 'irmap-scan-path'].includes(option));
  const missing = [...(linkRemap ? ['link-remap'] : []), ...needed.map(({ option }) => option)];
  return [
    ...missing.map((option) => `the engine "containerd" cannot pass ${option} to CRIU: use engine "runc"`),
    ...(usesGpu
      ? [
          'it uses a GPU, and the engine "containerd" cannot switch off CRIU\'s own cuda plugin, which would lock again ' +
            'what is saved: use engine "runc"',
        ]
      : []),
  ];
}

function containerWarnings(facts: ContainerFacts): string[] {
  const entered = facts.processes.filter((process) => process.entered);
  return entered.map(
    (process) =>
      `process ${process.hostPid} (${process.command}) came in by exec: it runs on, but is not part of the checkpoint`,
  );
}

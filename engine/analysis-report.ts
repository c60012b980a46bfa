/* What the processes of a tree hold, one row a kind, for people who want to know whether it can be checkpointed. */
import { assertNever } from '../core/errors.ts';
import type { ProcessTarget } from '../core/contract/process.ts';
import { openFds, type OpenFd } from '../native/proc/fds.ts';
import { readProc } from '../native/proc/read.ts';
import { tcpSockets } from '../native/proc/sockets.ts';
import { ownedSockets } from '../native/net/socket-kinds.ts';
import type { ChosenOption } from './analysis-result.ts';
import { analyzeTree, treeOf, type TreeAnalysis } from './analysis-tree.ts';
import type { ContainerFacts, ProcessFacts } from './container-facts.ts';
import { inspectProcess, isTerminal } from './inspect-process.ts';
import type { NodeDeps } from './node-deps.ts';

export interface Holding {
  /** `tcp established`, `pipe to the outside`, `eventfd`, ... */
  readonly kind: string;
  readonly count: number;
  /** at most five, as `pid 12 fd 3: /path` */
  readonly examples: readonly string[];
}

export interface ProcessReport {
  readonly pid: number;
  readonly startTime: number;
  readonly command: string;
  readonly uid: number;
  readonly cwd: string;
  /** can it be checkpointed as it is now? */
  readonly possible: boolean;
  readonly processes: ReadonlyArray<{
    readonly pid: number;
    readonly parentPid: number;
    readonly command: string;
    readonly threads: number;
    readonly state: string;
  }>;
  readonly holdings: readonly Holding[];
  /** that CRIU will be given, each with its reason */
  readonly options: readonly ChosenOption[];
  /** what to do about each, before a checkpoint is possible */
  readonly refusals: readonly string[];
  readonly warnings: readonly string[];
  readonly estimatedBytes: number;
}

const EXAMPLES = 5;

/** Reads only; the processes run on. @throws ProcessNotFound, InvalidInput */
export async function reportProcess(
  deps: Pick<NodeDeps, 'run'>,
  target: ProcessTarget,
  request: { readonly tcp: 'keep' | 'close'; readonly after: 'resume' | 'hold' | 'stop' },
): Promise<ProcessReport> {
  // Nothing is stopped here, so nothing is noted.
  const facts = inspectProcess(target, '/nonexistent');
  const analysis = await analyzeTree(deps, facts, request);
  const tree = treeOf(facts);
  return {
    pid: tree.pid,
    startTime: tree.startTime,
    command: tree.args.join(' ') || (facts.processes[0]?.command ?? ''),
    uid: tree.uid,
    cwd: tree.cwd,
    possible: analysis.refusals.length === 0,
    processes: facts.processes.map(({ hostPid, parentHostPid, command, threads, state }) => ({
      pid: hostPid,
      parentPid: parentHostPid,
      command,
      threads,
      state,
    })),
    holdings: holdingsOf(facts, analysis),
    options: analysis.options,
    refusals: analysis.refusals,
    warnings: analysis.warnings,
    estimatedBytes: analysis.estimatedBytes,
  };
}

interface Held {
  readonly kind: string;
  readonly text: string;
}

function holdingsOf(facts: ContainerFacts, analysis: TreeAnalysis): Holding[] {
  const outside = new Set(treeOf(facts).pipes.map(({ key }) => key));
  const tcp = new Map(tcpSockets(facts.initHostPid).map((socket) => [socket.inode, socket]));
  const held = [
    ...facts.processes.flatMap((process) => [
      ...descriptors(process, outside),
      ...sockets(process, tcp),
      ...conditions(process),
    ]),
    ...analysis.surveys.flatMap(({ deletedFiles }) =>
      deletedFiles.map(({ path, bytes }) => ({ kind: 'deleted file', text: `${path}, ${bytes} bytes` })),
    ),
    ...(analysis.hugePages ?? []).map(({ pageBytes, bytes }) => ({
      kind: 'huge pages',
      text: `${bytes} bytes in pages of ${pageBytes}`,
    })),
    ...surroundings(facts),
  ];
  const byKind = Map.groupBy(held, ({ kind }) => kind);
  return [...byKind].map(([kind, all]) => ({
    kind,
    count: all.length,
    examples: all.slice(0, EXAMPLES).map(({ text }) => text),
  }));
}

function descriptors({ hostPid }: ProcessFacts, outside: ReadonlySet<string>): Held[] {
  return openFds(hostPid).flatMap((open): Held[] => {
    const kind = kindOf(open, outside);
    const text = `pid ${hostPid} fd ${open.fd}: ${open.target}`;
    const locks = open.locks > 0 ? [{ kind: 'file lock', text }] : [];
    return kind === undefined ? locks : [{ kind, text }, ...locks];
  });
}

/** Undefined for what is told of elsewhere. */
function kindOf(open: OpenFd, outside: ReadonlySet<string>): string | undefined {
  switch (open.kind) {
    case 'socket':
    case 'deleted':
      return undefined;
    case 'pipe':
      return outside.has(open.target) ? 'pipe to the outside' : 'pipe';
    case 'anon': {
      const name = /^anon_inode:\[?([^\]]+)\]?$/.exec(open.target)?.[1] ?? open.target;
      return name === 'eventpoll' ? 'epoll' : name;
    }
    case 'device':
      return isTerminal(open) ? 'terminal' : 'device';
    case 'file':
    case 'memfd':
    case 'other':
      return open.kind;
    default:
      return assertNever(open.kind);
  }
}

function sockets({ hostPid }: ProcessFacts, tcp: ReadonlyMap<number, { readonly state: string }>): Held[] {
  return ownedSockets(hostPid).map(({ fd, inode, name, text }) => ({
    kind: name === 'tcp' ? `tcp ${tcp.get(inode)?.state ?? 'unbound'}` : `${name === 'other' ? text : name} socket`,
    text: `pid ${hostPid} fd ${fd}: socket ${inode}`,
  }));
}

const SECCOMP = ['', 'strict', 'filter'];

function conditions({ hostPid, command, state, tracerPid }: ProcessFacts): Held[] {
  const name = `pid ${hostPid} (${command})`;
  const status = readProc(`/proc/${hostPid}/status`) ?? '';
  const seccomp = Number(/^Seccomp:\s*(\d)$/m.exec(status)?.[1] ?? 0);
  return [
    ...(state === 'Z' ? [{ kind: 'zombie', text: name }] : []),
    ...(state === 'T' ? [{ kind: 'stopped process', text: name }] : []),
    ...(tracerPid === 0 ? [] : [{ kind: 'ptrace', text: `${name} by ${tracerPid}` }]),
    ...(seccomp === 0 ? [] : [{ kind: `seccomp ${SECCOMP[seccomp] ?? ''}`.trim(), text: name }]),
  ];
}

function surroundings({ initHostPid, tree }: ContainerFacts): Held[] {
  const cgroups = (readProc(`/proc/${initHostPid}/cgroup`) ?? '').split('\n');
  // The unified hierarchy, or where service managers keep theirs on v1.
  const path = cgroups
    .map((line) => /^\d+:(?:name=systemd)?:(\/.*)$/.exec(line)?.[1])
    .find((found) => found !== undefined);
  return [
    ...(tree?.ownNamespaces ?? []).map((type) => ({ kind: 'own namespace', text: type })),
    ...(tree?.session === 'outside' ? [{ kind: 'session led from outside', text: `pid ${initHostPid}` }] : []),
    ...(path === undefined ? [] : [{ kind: 'cgroup', text: path }]),
  ];
}

/*
 * May the processes of this checkpoint come back on this node? They bring their pids, and nothing of their files: both
 * must be as they were. Every reason at once; reads only.
 */
import { existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Metadata, ProcessTree } from '../../core/checkpoint/metadata.ts';
import type { RestoreProcessOptions } from '../../core/contract/process.ts';
import { caution, type Finding, problem } from '../../core/preflight.ts';
import { hostNetwork } from '../../native/proc/network-here.ts';
import { readProc } from '../../native/proc/read.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { probeHostFacts, type ProgramDeps } from '../facts.ts';
import { hookFindings } from './hooks.ts';
import { machineReasons } from './restore.ts';
import { networkFindings } from './resources.ts';

export interface ProcessRestoreWish extends RestoreProcessOptions {
  /** the restore has a terminal to give */
  readonly hasTerminal: boolean;
  /** standard streams that the restore provides by itself */
  readonly attached: boolean;
}

export async function surveyProcessRestore(
  deps: ProgramDeps,
  metadata: Metadata,
  wish: ProcessRestoreWish,
): Promise<readonly Finding[]> {
  const tree = metadata.process;
  if (tree === undefined) {
    const remedy = `kybernate restore ${metadata.checkpointId}`;
    return [problem('container', `${metadata.checkpointId} is of a container, not of processes`, { remedy })];
  }
  const network = tree.ownNamespaces.includes('net')
    ? []
    : networkFindings(metadata.capture, wish.tcp, { name: 'the network of the node', ...hostNetwork() });
  return [
    ...(await machineReasons(deps, await probeHostFacts(deps), metadata, wish.tcp)),
    ...hookFindings(deps.settings.hooks, { operation: 'restore', kind: 'process' }),
    ...idFindings(tree),
    ...fileFindings(tree, wish),
    ...streamFindings(tree, wish),
    ...network,
    ...(tree.terminal && !wish.hasTerminal ? [problem('terminal', 'its terminal was held from outside')] : []),
  ];
}

/** A thread's id takes a pid, too. */
function idFindings({ ids, pid, startTime }: ProcessTree): Finding[] {
  const pidMax = Number(readProc('/proc/sys/kernel/pid_max') ?? Number.MAX_SAFE_INTEGER);
  const root = readProcess(pid);
  if (root?.startTime === startTime) {
    return [
      problem('pids', `the source still runs: pid ${pid} (${root.command}) is that very process`, {
        recorded: String(pid),
        remedy: `end it first (kill ${pid}), or checkpoint with --after stop`,
      }),
    ];
  }
  return ids.flatMap((id): Finding[] => {
    const holder = readProcess(id);
    if (holder !== undefined) {
      if (holder.state === 'Z') {
        const message = `pid ${id} is that of ${holder.command}, which has ended: process ${holder.parentHostPid} has not asked for it`;
        return [problem('pids', message, { recorded: String(id), remedy: `end process ${holder.parentHostPid}` })];
      }
      const group = Number(/^Tgid:\s*(\d+)$/m.exec(readProc(`/proc/${id}/status`) ?? '')?.[1] ?? id);
      const who = group === id ? holder.command : `a thread of process ${group}, ${holder.command}`;
      const compared = { recorded: String(id), remedy: `end process ${group}, or restore on another node` };
      return [problem('pids', `pid ${id} is taken by ${who}`, compared)];
    }
    return id >= pidMax
      ? [problem('pids', `pid ${id} is above the limit of this node`, { here: `kernel.pid_max = ${pidMax}` })]
      : [];
  });
}

const STREAMS = ['stdin', 'stdout', 'stderr'] as const;

function fileFindings({ files, cwd }: ProcessTree, { directory, stdio }: ProcessRestoreWish): Finding[] {
  // A stream that goes elsewhere is not opened again.
  const missing = files.flatMap(({ path, bytes }): Finding[] => {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found === undefined) {
      return [problem('open-files', `${path}, which it had open, is not here`)];
    }
    return found.size === bytes
      ? []
      : [
          problem('open-files', `${path} was ${bytes} bytes long at the checkpoint and is ${found.size} now`, {
            recorded: `${bytes} bytes`,
            here: `${found.size} bytes`,
            remedy: `bring the file back as it was; if it only grew: truncate --size=${bytes} ${path}`,
          }),
        ];
  });
  const wanted = directory ?? cwd;
  const isDirectory = statSync(wanted, { throwIfNoEntry: false })?.isDirectory() === true;
  const outputs = [stdio.stdout, stdio.stderr].flatMap((path) => (path === undefined || path === 'null' ? [] : [path]));
  // CRIU cannot tell it from the root directory, which would be replaced with it.
  const isRoot = directory !== undefined && directory !== cwd && cwd === '/';
  const rootRemedy = 'leave --directory away: the root directory is on every node';
  const streams = STREAMS.flatMap((name): Finding[] => {
    const path = stdio[name];
    const found = path === undefined || path === 'null' ? undefined : statSync(path, { throwIfNoEntry: false });
    // Opening a pipe waits for its other end, perhaps for ever.
    return found === undefined || found.isFile() || found.isCharacterDevice()
      ? []
      : [problem('open-files', `${path}, wanted as ${name}, is no file`, { remedy: 'name a file, or null' })];
  });
  return [
    ...missing,
    ...streams,
    ...(isRoot ? [problem('open-files', 'its working directory was /, which stays it', { remedy: rootRemedy })] : []),
    ...(isDirectory
      ? []
      : [
          problem('open-files', `its working directory ${wanted} is not here`, {
            remedy: 'make it, or name another one: --directory',
          }),
        ]),
    ...outputs
      .filter((path) => !existsSync(dirname(path)))
      .map((path) => problem('open-files', `${path} cannot be written: ${dirname(path)} is not here`)),
    ...(stdio.stdin === undefined || stdio.stdin === 'null' || existsSync(stdio.stdin)
      ? []
      : [problem('open-files', `${stdio.stdin}, wanted as standard input, is not here`)]),
  ];
}

function streamFindings({ pipes }: ProcessTree, { stdio, attached }: ProcessRestoreWish): Finding[] {
  const refused = STREAMS.filter((name, fd) => stdio[name] !== undefined && !pipes.some((pipe) => pipe.fd === fd));
  const dropped = pipes.filter(({ fd }) => fd > 2 || (!attached && stdio[STREAMS[fd] ?? 'stdin'] === undefined));
  return [
    ...refused.map((name) =>
      problem('open-files', `${name} of the source was no pipe to the outside, so it cannot be led elsewhere`, {
        remedy: `leave --${name} away: it comes back as it was`,
      }),
    ),
    ...dropped.map(({ fd, key, write }) =>
      caution('open-files', `descriptor ${fd} ${write ? 'wrote to' : 'read from'} ${key} outside: it is /dev/null now`),
    ),
  ];
}

/*
 * Who is in the container now. The plan's list is as old as the plan; while the container stands still this one is
 * exact, and an undo or a kill must miss nobody.
 */
import type { Connection } from '../native/net/nft.ts';
import { ownedSockets } from '../native/net/socket-kinds.ts';
import { cgroupPids } from '../native/proc/cgroup.ts';
import { tcpSockets } from '../native/proc/sockets.ts';
import { readProcess, type ProcessInfo } from '../native/proc/tree.ts';
import type { ContainerFacts } from './container-facts.ts';
import { treeProcesses } from './signal-freezer.ts';

/** Processes in the container's cgroup, or below the root of the tree, and those of the plan that still are the same ones. */
export function liveProcesses(facts: ContainerFacts): ProcessInfo[] {
  const planned = facts.processes.filter((process) => readProcess(process.hostPid)?.startTime === process.startTime);
  const foreign = new Set(facts.foreignHostPids);
  const { freezer } = facts;
  const members =
    freezer.version === 'signals' ? treeProcesses(freezer).map(({ hostPid }) => hostPid) : cgroupPids(freezer.path);
  const pids = new Set([...members, ...planned.map((process) => process.hostPid)]);
  return [...pids]
    .filter((pid) => !foreign.has(pid))
    .map((pid) => readProcess(pid))
    .filter((process) => process !== undefined);
}

/** Connected TCP sockets that a frozen container holds: no packet of theirs may pass until a restore takes them over. */
export function liveConnections(facts: ContainerFacts): (Connection & { readonly inode: number })[] {
  const owned = new Set(
    liveProcesses(facts).flatMap((process) => ownedSockets(process.hostPid).map((socket) => socket.inode)),
  );
  return tcpSockets(facts.initHostPid)
    .filter((socket) => owned.has(socket.inode) && !['listen', 'closed', 'time-wait'].includes(socket.state))
    .map(({ local, remote, inode }) => ({ local, remote, inode }));
}

/*
 * A tree of processes without a cgroup of its own has no freezer to itself: CRIU's ptrace makes it stand still, and where
 * CRIU is gone or must be ended, SIGSTOP does. Whom we have stopped lies in a file before the signal is sent, so that
 * whoever undoes continues those and nobody whom their user had stopped. To the parents of the tree it looks like a stop
 * from outside, and a shell says so: that is why a dump that ends by itself is never stopped on top.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { descendantPids, readProcess, type ProcessInfo } from '../native/proc/tree.ts';

export interface SignalFreezer {
  readonly version: 'signals';
  /** file in the operation's directory: whom we have stopped */
  readonly path: string;
  readonly rootHostPid: number;
  readonly rootStartTime: number;
  /** whom their user had stopped before: under CRIU's ptrace they look as the others; absent in plans of an older version */
  readonly stoppedBefore?: readonly Stopped[];
}

interface Stopped {
  readonly hostPid: number;
  readonly startTime: number;
}

function isAmong(list: readonly Stopped[], { hostPid, startTime }: Stopped): boolean {
  return list.some((stopped) => stopped.hostPid === hostPid && stopped.startTime === startTime);
}

/** The tree as it is now; empty when its root has gone, or its pid is another's by now. */
export function treeProcesses({ rootHostPid, rootStartTime }: SignalFreezer): ProcessInfo[] {
  return readProcess(rootHostPid)?.startTime === rootStartTime
    ? descendantPids(rootHostPid)
        .map((pid) => readProcess(pid))
        .filter((process) => process !== undefined)
    : [];
}

/** Idempotent. A process that is traced stops when its tracer lets it go. */
export function stopTree(freezer: SignalFreezer): void {
  const running = treeProcesses(freezer).filter(
    (process) => !['T', 'Z', 'X'].includes(process.state) && !isAmong(freezer.stoppedBefore ?? [], process),
  );
  const known = stoppedBy(freezer);
  const added = running.filter((process) => !isAmong(known, process));
  const all = [...known, ...added.map(({ hostPid, startTime }) => ({ hostPid, startTime }))];
  writeFileSync(`${freezer.path}.tmp`, JSON.stringify(all), { mode: 0o600 });
  renameSync(`${freezer.path}.tmp`, freezer.path);
  running.forEach(({ hostPid }) => signal(hostPid, 'SIGSTOP'));
}

/** Those that we have stopped, and no others. Idempotent. */
export function continueTree(freezer: SignalFreezer): void {
  for (const { hostPid, startTime } of stoppedBy(freezer)) {
    if (readProcess(hostPid)?.startTime === startTime) {
      signal(hostPid, 'SIGCONT');
    }
  }
  rmSync(freezer.path, { force: true });
}

export function signalState(freezer: SignalFreezer): 'thawed' | 'frozen' | 'gone' {
  if (stoppedBy(freezer).length > 0) {
    return 'frozen';
  }
  // One that was killed stays its tracer's until that ends, and stands still no more.
  const processes = treeProcesses(freezer).filter(({ state }) => state !== 'Z' && state !== 'X');
  if (processes.length === 0) {
    return 'gone';
  }
  return processes.some(({ tracerPid }) => tracerPid !== 0 && readProcess(tracerPid)?.command === 'criu')
    ? 'frozen'
    : 'thawed';
}

function stoppedBy({ path }: SignalFreezer): readonly Stopped[] {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Stopped[];
  } catch {
    // ENOENT: nobody was stopped. It is renamed into its place whole.
    return [];
  }
}

function signal(hostPid: number, name: 'SIGSTOP' | 'SIGCONT'): void {
  try {
    process.kill(hostPid, name);
  } catch {
    // ESRCH: it has ended.
  }
}

/* Processes by their host pids. Source of the fields: proc_pid_stat(5), proc_pid_status(5). */
import { numericEntries, readProc } from './read.ts';

export interface ProcessInfo {
  readonly hostPid: number;
  /** pid in the innermost pid namespace: what CRIU's images are named by */
  readonly nsPid: number;
  readonly parentHostPid: number;
  readonly command: string;
  readonly threads: number;
  /** one letter of proc(5): `R`, `S`, `D`, `T` stopped, `t` traced, `Z` zombie, ... */
  readonly state: string;
  /** clock ticks after boot; with the pid it names a process for good */
  readonly startTime: number;
  /** 0 when nobody traces it */
  readonly tracerPid: number;
  /** session and controlling terminal, in the host's numbers */
  readonly sessionHostPid: number;
  readonly ttyDevice: number;
  /** real user id, as the host sees it */
  readonly uid: number;
}

export interface ListedProcess extends ProcessInfo {
  /** arguments joined by spaces; empty for a kernel thread or a zombie */
  readonly commandLine: string;
}

/** @returns undefined when there is no such process */
export function readProcess(hostPid: number): ProcessInfo | undefined {
  const stat = readProc(`/proc/${hostPid}/stat`);
  const status = readProc(`/proc/${hostPid}/status`);
  if (stat === undefined || status === undefined || stat === '') {
    return undefined;
  }
  const nameEnd = stat.lastIndexOf(')');
  // the fields after the name, which may itself hold spaces and brackets: state is field 3
  const fields = stat.slice(nameEnd + 2).split(' ');
  const number = (field: number): number => Number(fields[field - 3] ?? 0);
  return {
    hostPid,
    nsPid: Number(/^NSpid:.*?(\d+)$/m.exec(status)?.[1] ?? hostPid),
    parentHostPid: number(4),
    command: stat.slice(stat.indexOf('(') + 1, nameEnd),
    threads: number(20),
    state: fields[0] ?? '?',
    startTime: number(22),
    tracerPid: Number(/^TracerPid:\s*(\d+)$/m.exec(status)?.[1] ?? 0),
    sessionHostPid: number(6),
    ttyDevice: number(7),
    uid: Number(/^Uid:\s*(\d+)/m.exec(status)?.[1] ?? 0),
  };
}

/** Every process of the machine (of our pid namespace). */
export function listProcesses(): ListedProcess[] {
  return numericEntries('/proc').flatMap((pid) => {
    const process = readProcess(pid);
    const commandLine = (readProc(`/proc/${pid}/cmdline`) ?? '').split('\0').join(' ').trim();
    return process === undefined ? [] : [{ ...process, commandLine }];
  });
}

/**
 * The given processes as a tree, parents before their children, `rootHostPid` first; processes that have ended are left
 * out, those whose parent is not among them (entered by exec) follow the root's own.
 */
export function processTree(rootHostPid: number, hostPids: readonly number[]): ProcessInfo[] {
  const all = new Map<number, ProcessInfo>();
  for (const pid of new Set([rootHostPid, ...hostPids])) {
    const process = readProcess(pid);
    if (process !== undefined) {
      all.set(pid, process);
    }
  }
  const children = Map.groupBy(all.values(), (process) => process.parentHostPid);
  const ordered: ProcessInfo[] = [];
  const visit = (process: ProcessInfo): void => {
    if (all.delete(process.hostPid)) {
      ordered.push(process);
      (children.get(process.hostPid) ?? []).forEach(visit);
    }
  };
  const root = all.get(rootHostPid);
  if (root !== undefined) {
    visit(root);
  }
  const outside = [...all.values()].filter((process) => !all.has(process.parentHostPid));
  [...outside, ...all.values()].forEach(visit);
  return ordered;
}

/** Pids of a process and of all below it, parents first; empty when it is gone. CRIU walks the same lists. */
export function descendantPids(rootHostPid: number): number[] {
  const pids = numericEntries(`/proc/${rootHostPid}/task`).length === 0 ? [] : [rootHostPid];
  for (const pid of pids) {
    for (const thread of numericEntries(`/proc/${pid}/task`)) {
      const children = readProc(`/proc/${pid}/task/${thread}/children`) ?? '';
      pids.push(
        ...children
          .split(' ')
          .filter((text) => text.trim() !== '')
          .map(Number),
      );
    }
  }
  return pids;
}

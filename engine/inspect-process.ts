/*
 * A tree of processes of the host, read once, before anything is touched, in the form in which a container's facts come.
 * It is named by pid and start time: a pid that was used again is never taken for it.
 */
import { join } from 'node:path';
import { processRef, type ProcessId, type ProcessTarget } from '../core/contract/process.ts';
import { KybernateError } from '../core/errors.ts';
import { openFds, type OpenFd } from '../native/proc/fds.ts';
import { namespaceInode, type NamespaceType } from '../native/proc/ns.ts';
import { numericEntries, readProc, readProcLink } from '../native/proc/read.ts';
import { securityOf } from '../native/proc/security.ts';
import { descendantPids, processTree, readProcess, type ProcessInfo } from '../native/proc/tree.ts';
import type { ContainerFacts, ProcessFacts } from './container-facts.ts';

/** CRIU makes these again when the whole of one is in the tree. */
const CAPTURED_NAMESPACES: readonly NamespaceType[] = ['net', 'ipc', 'uts'];

/** @throws ProcessNotFound; InvalidInput init, a kernel thread, or one of our own ancestors */
export function resolveProcess({ pid, startTime }: ProcessTarget): ProcessId {
  const found = readProcess(pid);
  if (found === undefined || found.state === 'Z' || found.state === 'X') {
    const what =
      found === undefined ? 'there is no such process' : 'it has ended, and its parent has not asked for that';
    throw new KybernateError('ProcessNotFound', `process ${pid}: ${what}`, { details: { pid } });
  }
  if (startTime !== undefined && found.startTime !== startTime) {
    throw new KybernateError(
      'ProcessNotFound',
      `process ${pid} is another one by now (${found.command}, started at tick ${found.startTime}, not ${startTime}); ` +
        'it was not touched',
      { details: { pid, startTime, found: found.startTime } },
    );
  }
  if (pid === 1) {
    throw new KybernateError('InvalidInput', `process 1 (${found.command}) is the init of this machine or container`);
  }
  if (readProcLink(`/proc/${pid}/exe`) === undefined) {
    throw new KybernateError('InvalidInput', `process ${pid} (${found.command}) is a thread of the kernel`);
  }
  if (ownAncestors().has(pid)) {
    throw new KybernateError(
      'InvalidInput',
      `process ${pid} (${found.command}) has started Kybernate itself, which cannot stand still while it captures`,
    );
  }
  return { pid, startTime: found.startTime };
}

function ownAncestors(): ReadonlySet<number> {
  const pids = new Set<number>();
  for (let pid = process.pid; pid > 0 && !pids.has(pid); pid = readProcess(pid)?.parentHostPid ?? 0) {
    pids.add(pid);
  }
  return pids;
}

/**
 * @param operationDir where the capture notes whom it had to stop
 * @throws as `resolveProcess`
 */
export function inspectProcess(target: ProcessTarget, operationDir: string): ContainerFacts {
  const resolved = resolveProcess(target);
  const { pid, startTime } = resolved;
  const root = readProcess(pid);
  if (root === undefined) {
    throw new KybernateError('ProcessNotFound', `process ${pid} has just ended`);
  }
  const processes = processTree(pid, descendantPids(pid)).map((info): ProcessFacts => ({ ...info, entered: false }));
  const ref = processRef(resolved);
  const fds = new Map(processes.map(({ hostPid }) => [hostPid, openFds(hostPid)]));
  const terminal = hasOutsideTerminal(processes, fds);
  const own = CAPTURED_NAMESPACES.filter((type) => namespaceInode(pid, type) !== namespaceInode('self', type));
  return {
    ref,
    record: {
      id: ref.id,
      labels: {},
      image: '',
      runtime: { name: 'process' },
      spec: '{}',
      snapshotter: '',
      snapshotKey: '',
      sandboxId: '',
    },
    initHostPid: pid,
    initStartTime: startTime,
    processes,
    foreignHostPids: [],
    freezer: {
      version: 'signals',
      path: join(operationDir, 'stopped.json'),
      rootHostPid: pid,
      rootStartTime: startTime,
      stoppedBefore: processes
        .filter(({ state }) => state === 'T')
        .map((stopped) => ({ hostPid: stopped.hostPid, startTime: stopped.startTime })),
    },
    runcRoot: '',
    networkNamespace: {
      inode: namespaceInode(pid, 'net') ?? 0,
      private: own.includes('net'),
      kind: own.includes('net') ? 'own' : 'host',
    },
    stdio: { terminal, ...stdioOf(fds.get(pid) ?? []) },
    mounts: [],
    security: securityOf(pid),
    tree: {
      pid,
      startTime,
      args: (readProc(`/proc/${pid}/cmdline`) ?? '').split('\0').slice(0, -1),
      cwd: readProcLink(`/proc/${pid}/cwd`) ?? '/',
      uid: root.uid,
      gid: Number(/^Gid:\s*(\d+)/m.exec(readProc(`/proc/${pid}/status`) ?? '')?.[1] ?? 0),
      ids: processes.flatMap(({ hostPid }) => numericEntries(`/proc/${hostPid}/task`)),
      session: processes.some(({ hostPid }) => hostPid === root.sessionHostPid) ? 'own' : 'outside',
      terminal,
      ownNamespaces: own,
      pipes: outsidePipes(processes, fds),
    },
  };
}

function stdioOf(fds: readonly OpenFd[]): { stdin: string; stdout: string; stderr: string } {
  const kindOf = (wanted: number): string => {
    const open = fds.find(({ fd }) => fd === wanted);
    if (open === undefined) {
      return 'closed';
    }
    return open.target === '/dev/null' ? 'null' : isTerminal(open) ? 'terminal' : open.kind;
  };
  return { stdin: kindOf(0), stdout: kindOf(1), stderr: kindOf(2) };
}

const SLAVE = /^\/dev\/pts\/(\d+)$/;

/** A slave or a console; the master of a pseudo terminal is a plain file to its owner. */
export function isTerminal({ target }: OpenFd): boolean {
  return SLAVE.test(target) || /^\/dev\/(?:tty|console)/.test(target);
}

/** Is a terminal open, or controlling, whose master nobody of the tree has? */
function hasOutsideTerminal(processes: readonly ProcessInfo[], fds: ReadonlyMap<number, readonly OpenFd[]>): boolean {
  const masters = new Set(
    [...fds].flatMap(([hostPid, opens]) =>
      opens
        .filter(({ target }) => /^\/dev\/(?:ptmx|pts\/ptmx)$/.test(target))
        .map(({ fd }) => Number(/^tty-index:\s*(\d+)$/m.exec(readProc(`/proc/${hostPid}/fdinfo/${fd}`) ?? '')?.[1])),
    ),
  );
  const isOutside = (open: OpenFd): boolean => !masters.has(Number(SLAVE.exec(open.target)?.[1] ?? -1));
  const held = [...fds.values()].flat().some((open) => isTerminal(open) && isOutside(open));
  // A pseudo terminal's device number has its index in the minor; the major of slaves is 136 to 143.
  const controlled = processes.some(({ ttyDevice }) => ttyDevice !== 0 && !masters.has(slaveIndex(ttyDevice)));
  return held || controlled;
}

function slaveIndex(device: number): number {
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  return major >= 136 && major <= 143 ? (major - 136) * 256 + minor : -1;
}

const O_ACCMODE = 3;

/** A pipe of which the tree has one end only. */
function outsidePipes(
  processes: readonly ProcessInfo[],
  fds: ReadonlyMap<number, readonly OpenFd[]>,
): { key: string; fd: number; write: boolean }[] {
  const ends = processes.flatMap(({ hostPid }) =>
    (fds.get(hostPid) ?? [])
      .filter((open) => open.kind === 'pipe')
      .map((open) => ({ key: open.target, fd: open.fd, mode: open.flags & O_ACCMODE })),
  );
  const found = new Map<string, { key: string; fd: number; write: boolean }>();
  for (const { key, fd, mode } of ends) {
    const same = ends.filter((end) => end.key === key);
    const both = same.some((end) => end.mode !== 1) && same.some((end) => end.mode !== 0);
    if (!both && !found.has(key)) {
      found.set(key, { key, fd, write: mode !== 0 });
    }
  }
  return [...found.values()];
}

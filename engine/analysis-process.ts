/*
 * One process: what it holds that changes CRIU's options, and what CRIU cannot dump. Sources of what it can:
 * criu/files.c (dump_one_file, dump_chrdev), criu/sockets.c, criu/files-reg.c (check_path_remap) of CRIU 4.2.
 */
import { statSync, type Stats } from 'node:fs';
import { ownedSockets, type OwnedSocket } from '../native/net/socket-kinds.ts';
import { openFds, type OpenFd } from '../native/proc/fds.ts';
import { limitsKeptBy } from '../native/proc/limits-access.ts';
import { readMounts } from '../native/proc/mounts.ts';
import { readMaps, type Mapping } from '../native/proc/maps.ts';
import type { ProcessFacts } from './container-facts.ts';

export interface DeletedFile {
  readonly path: string;
  /** names that are left; 0: CRIU puts the content into its images */
  readonly links: number;
  /** on disk: holes are not counted, by CRIU neither */
  readonly bytes: number;
}

export interface ProcessSurvey {
  readonly process: ProcessFacts;
  readonly sockets: readonly OwnedSocket[];
  readonly deletedFiles: readonly DeletedFile[];
  readonly locks: number;
  readonly usesGpu: boolean;
  readonly refusals: readonly string[];
}

const ANON_INODES: ReadonlySet<string> = new Set([
  'eventfd',
  'eventpoll',
  'signalfd',
  'timerfd',
  'inotify',
  'fanotify',
  'pidfd',
]);

/** Character devices that CRIU knows: memory devices, terminals, pseudo terminals, and tun and autofs by their minor. */
function isKnownDevice(rdev: number): boolean {
  const major = (rdev >> 8) & 0xfff;
  const minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
  return [1, 4, 5].includes(major) || (major >= 136 && major <= 143) || (major === 10 && [200, 235].includes(minor));
}

const GPU_DEVICE = /^\/dev\/nvidia/;

/** What the process belongs to: the word of the messages. */
export type Subject = 'container' | 'process';

/** A process that ends meanwhile has nothing. */
export function surveyProcess(process: ProcessFacts, subject: Subject = 'container'): ProcessSurvey {
  const fds = openFds(process.hostPid);
  const maps = readMaps(process.hostPid);
  const sockets = ownedSockets(process.hostPid);
  const name = `process ${process.hostPid} (${process.command})`;
  return {
    process,
    sockets,
    deletedFiles: deletedFiles(process.hostPid, fds, maps),
    locks: fds.reduce((sum, open) => sum + open.locks, 0),
    usesGpu: fds.some((open) => GPU_DEVICE.test(open.target)) || maps.some((mapping) => GPU_DEVICE.test(mapping.path)),
    refusals: [
      ...tracerRefusals(process, name),
      ...limitRefusals(process.hostPid, name, subject),
      ...anonRefusals(name, fds, maps),
      ...deviceRefusals(process.hostPid, name, fds),
      ...outsideRefusals(process.hostPid, name, fds, subject),
      ...sockets
        .filter((socket) => socket.name === 'other')
        .map(
          ({ fd, text }) =>
            `${name} has a socket of a kind that CRIU cannot dump (${text}) as descriptor ${fd}: close it`,
        ),
    ],
  };
}

/**
 * A file that was opened through a mount of the host: CRIU finds no such mount in the container ("Can't lookup mount").
 * Terminals are led from outside, and have an option of their own.
 */
function outsideRefusals(hostPid: number, name: string, fds: readonly OpenFd[], subject: Subject): string[] {
  const mounts = new Set(readMounts(hostPid).map((mount) => mount.id));
  if (mounts.size === 0) {
    return [];
  }
  return fds
    .filter((open) => ['file', 'device'].includes(open.kind) && !/^\/dev\/(?:pts\/|tty|console|ptmx)/.test(open.target))
    .filter((open) => open.mountId !== 0 && !mounts.has(open.mountId))
    .map((open) =>
      subject === 'process'
        ? `${name} holds ${open.target} as descriptor ${open.fd}, through a mount that it does not see: close the file`
        : `${name} holds ${open.target} of the host as descriptor ${open.fd}, which CRIU cannot dump: start the ` +
          'container without inherited standard streams (ctr: --null-io), or restore it from a checkpoint of one that was',
    );
}

function tracerRefusals(process: ProcessFacts, name: string): string[] {
  return process.tracerPid === 0
    ? []
    : [`${name} is traced by process ${process.tracerPid}, and CRIU must trace it: detach the debugger`];
}

/** CRIU's words are "Can't get rlimit 0: Operation not permitted". */
function limitRefusals(hostPid: number, name: string, subject: Subject): string[] {
  const user = limitsKeptBy(hostPid);
  const elsewhere = subject === 'container' ? ' or in a user namespace' : '';
  return user === undefined
    ? []
    : [
        `${name} runs as ${user}, and root on this machine lacks CAP_SYS_RESOURCE, without which CRIU cannot read the ` +
          `limits of another user: run it as root${elsewhere}, or give the node worker the capability`,
      ];
}

function anonRefusals(name: string, fds: readonly OpenFd[], maps: readonly Mapping[]): string[] {
  const where = new Map<string, string>();
  const note = (target: string, place: string): void => {
    const kind = /^anon_inode:\[?([^\]]+)\]?$/.exec(target)?.[1];
    if (kind !== undefined && !ANON_INODES.has(kind) && !where.has(kind)) {
      where.set(kind, place);
    }
  };
  fds.forEach(({ target, fd }) => note(target, `descriptor ${fd}`));
  // Its descriptor may be closed, and the ring lives on.
  maps.forEach(({ path }) => note(path, 'mapped'));
  return [...where].map(([kind, place]) =>
    kind === 'io_uring'
      ? `${name} uses io_uring (${place}), which CRIU cannot dump: switch it off in the program ` +
        '(Node.js and libuv: UV_USE_IO_URING=0), or by the sysctl kernel.io_uring_disabled=2, and start it again'
      : `${name} has an open ${kind} (${place}), which CRIU cannot dump: close it`,
  );
}

function deviceRefusals(hostPid: number, name: string, fds: readonly OpenFd[]): string[] {
  const refused = new Map<string, number>();
  for (const open of fds) {
    if (open.kind === 'device' && !GPU_DEVICE.test(open.target)) {
      const stats = statOf(`/proc/${hostPid}/fd/${open.fd}`);
      const unknown = stats?.isCharacterDevice() === true && !isKnownDevice(stats.rdev);
      if ((unknown || stats?.isBlockDevice() === true) && !refused.has(open.target)) {
        refused.set(open.target, open.fd);
      }
    }
  }
  return [...refused].map(
    ([path, fd]) => `${name} has the device ${path} open as descriptor ${fd}, which CRIU cannot dump: close it`,
  );
}

/** Mapped or open, but without the name by which it was opened. */
function deletedFiles(hostPid: number, fds: readonly OpenFd[], maps: readonly Mapping[]): DeletedFile[] {
  const found = new Map<string, DeletedFile>();
  const look = (link: string, path: string): void => {
    const stats = statOf(link);
    if (stats?.isFile() === true) {
      found.set(`${stats.dev}:${stats.ino}`, { path, links: stats.nlink, bytes: stats.blocks * 512 });
    }
  };
  for (const open of fds) {
    if (open.kind === 'deleted') {
      look(`/proc/${hostPid}/fd/${open.fd}`, open.target.replace(/ \(deleted\)$/, ''));
    }
  }
  for (const mapping of maps) {
    // shared anonymous memory shows as a deleted /dev/zero, SysV segments and memfd by names of their own
    const ownMemory = /^\/(?:dev\/zero|SYSV[0-9a-f]{8}|memfd:.*)$/.test(mapping.path);
    if (mapping.deleted && mapping.path.startsWith('/') && !ownMemory) {
      look(`/proc/${hostPid}/map_files/${mapping.range}`, mapping.path);
    }
  }
  return [...found.values()];
}

/** Undefined when the descriptor is closed or the process has ended in the meantime. */
function statOf(link: string): Stats | undefined {
  try {
    return statSync(link);
  } catch {
    // ENOENT, ESRCH, and EPERM for a mapping that has gone: nothing to look at.
    return undefined;
  }
}

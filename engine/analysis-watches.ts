/*
 * inotify and fanotify watches. The kernel tells their inode, not their path, and overlayfs does not open file handles:
 * CRIU has to be told where to look (`irmap-scan-path`). Source: criu/fsnotify.c, criu/irmap.c; proc(5), fdinfo.
 */
import type { Run } from '../native/run/run.ts';
import { readMounts } from '../native/proc/mounts.ts';
import { openFds } from '../native/proc/fds.ts';
import { readProc } from '../native/proc/read.ts';

export interface WatchFindings {
  /** paths inside the container that are watched, one per inode */
  readonly paths: readonly string[];
  /** inodes whose path was not found: CRIU will not find it either */
  readonly lost: readonly string[];
}

/** A tree that takes longer to search is not searched: CRIU then says what it cannot dump. */
const SEARCH_MS = 10_000;

/** @param hostPids the processes to look at; all see the root of the first */
export async function findWatches(run: Run, hostPids: readonly number[]): Promise<WatchFindings> {
  const root = hostPids[0];
  if (root === undefined) {
    return { paths: [], lost: [] };
  }
  const overlays = new Map(
    readMounts(root)
      .filter((mount) => mount.type === 'overlay')
      .map((mount) => [mount.device, mount.mountPoint]),
  );
  const wanted = new Map<string, Set<string>>();
  for (const { device, inode } of hostPids.flatMap(watchedInodes)) {
    const mountPoint = overlays.get(device);
    if (mountPoint !== undefined) {
      wanted.set(mountPoint, (wanted.get(mountPoint) ?? new Set()).add(inode));
    }
  }
  const paths: string[] = [];
  const lost: string[] = [];
  for (const [mountPoint, inodes] of wanted) {
    const found = await pathsOfInodes(run, `/proc/${root}/root`, mountPoint, inodes);
    paths.push(...found.values());
    lost.push(...[...inodes].filter((inode) => !found.has(inode)));
  }
  return { paths, lost };
}

function watchedInodes(hostPid: number): { device: string; inode: string }[] {
  return openFds(hostPid)
    .filter((open) => open.kind === 'anon' && /notify/.test(open.target))
    .flatMap((open) => {
      const info = readProc(`/proc/${hostPid}/fdinfo/${open.fd}`) ?? '';
      return [...info.matchAll(/^(?:inotify|fanotify) .*?ino:([0-9a-f]+) sdev:([0-9a-f]+)/gm)].map((match) => ({
        inode: String(Number.parseInt(match[1] ?? '0', 16)),
        device: deviceName(Number.parseInt(match[2] ?? '0', 16)),
      }));
    });
}

/** The kernel's own number: major in the upper 12 of 32 bits. */
function deviceName(sdev: number): string {
  return `${sdev >>> 20}:${sdev & 0xfffff}`;
}

async function pathsOfInodes(
  run: Run,
  rootDir: string,
  mountPoint: string,
  inodes: ReadonlySet<string>,
): Promise<Map<string, string>> {
  const tests = [...inodes].flatMap((inode, index) => [...(index === 0 ? [] : ['-o']), '-inum', inode]);
  const start = mountPoint === '/' ? `${rootDir}/` : `${rootDir}${mountPoint}`;
  const result = await run('find', [start, '-xdev', '(', ...tests, ')', '-printf', String.raw`%i %p\0`], {
    timeoutMs: SEARCH_MS,
    maxOutputBytes: 16 * 1024 * 1024,
  });
  const found = new Map<string, string>();
  for (const entry of result.stdout.split('\0')) {
    const space = entry.indexOf(' ');
    if (space > 0 && !found.has(entry.slice(0, space))) {
      found.set(entry.slice(0, space), entry.slice(space + 1 + rootDir.length));
    }
  }
  return found;
}

/* Source: proc_locks(5). */
import { readProc } from './read.ts';

export interface FileLock {
  readonly kind: string;
  /** -1 for an open-file-description lock, 0 for a holder outside our pid namespace */
  readonly hostPid: number;
  readonly inode: number;
}

/** Locks held on this machine; waiters (lines with `->`) are left out. */
export function parseLocks(text: string): FileLock[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\d+: (\S+) +\S+ +\S+ (-?\d+) \S+:\S+:(\d+) /.exec(line);
    return match === null ? [] : [{ kind: match[1] ?? '', hostPid: Number(match[2]), inode: Number(match[3]) }];
  });
}

export function fileLocks(): FileLock[] {
  return parseLocks(readProc('/proc/locks') ?? '');
}

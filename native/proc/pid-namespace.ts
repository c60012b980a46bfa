/* Pids that are taken in a pid namespace which has no process of ours. */
import { statSync } from 'node:fs';
import { namespaceInode } from './ns.ts';
import { numericEntries } from './read.ts';
import { readProcess } from './tree.ts';

/**
 * @param path of a pid namespace: `/proc/<pid>/ns/pid`, or where it is mounted
 * @returns pids as seen inside; undefined when it is not there
 */
export function pidsIn(path: string): ReadonlySet<number> | undefined {
  // The inode of what the link leads to is the number that the link's text names. Source: proc_pid_ns(5).
  const inode = statSync(path, { throwIfNoEntry: false })?.ino;
  if (inode === undefined) {
    return undefined;
  }
  const inside = numericEntries('/proc').filter((hostPid) => namespaceInode(hostPid, 'pid') === inode);
  return new Set(inside.flatMap((hostPid) => readProcess(hostPid)?.nsPid ?? []));
}

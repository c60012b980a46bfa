/* Numbers that are taken in a pid namespace which has no process of ours. */
import { statSync } from 'node:fs';
import { namespaceInode } from './ns.ts';
import { numericEntries, readProc } from './read.ts';

/**
 * @param path of a pid namespace: `/proc/<pid>/ns/pid`, or where it is mounted
 * @returns pids and thread ids as seen inside, and the host pid of the process that has each; undefined when it is not there
 */
export function idsIn(path: string): ReadonlyMap<number, number> | undefined {
  // The inode of what the link leads to is the number that the link's text names. Source: proc_pid_ns(5).
  const inode = statSync(path, { throwIfNoEntry: false })?.ino;
  if (inode === undefined) {
    return undefined;
  }
  const inside = numericEntries('/proc').filter((hostPid) => namespaceInode(hostPid, 'pid') === inode);
  return new Map(
    inside.flatMap((hostPid) =>
      numericEntries(`/proc/${hostPid}/task`).flatMap((thread) => {
        const status = readProc(`/proc/${hostPid}/task/${thread}/status`) ?? '';
        const id = /^NSpid:.*?(\d+)$/m.exec(status)?.[1];
        return id === undefined ? [] : [[Number(id), hostPid] as const];
      }),
    ),
  );
}

import { readProcLink } from './read.ts';

export type NamespaceType = 'net' | 'pid' | 'mnt' | 'uts' | 'ipc' | 'user' | 'cgroup';

/** Inode of a namespace of a process: equal numbers are the same namespace. Undefined when the process is gone. */
export function namespaceInode(hostPid: number | 'self', type: NamespaceType): number | undefined {
  const inode = /\[(\d+)\]$/.exec(readProcLink(`/proc/${hostPid}/ns/${type}`) ?? '')?.[1];
  return inode === undefined ? undefined : Number(inode);
}

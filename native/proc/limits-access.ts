/*
 * May this process read and set the limits of another one? CRIU must: prlimit(2) of each process that it dumps. Root
 * without CAP_SYS_RESOURCE, as some virtual machines and containers have it, may do so for processes of root alone, or of a
 * user namespace that it has made. Source: kernel/sys.c, check_prlimit_permission.
 */
import { readProc, readProcLink } from './read.ts';

const CAP_SYS_RESOURCE = 24n;

/** Lines of /proc/<pid>/status. */
export function mayUseLimits(ownStatus: string, status: string, sameUserNamespace: boolean): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(ownStatus)?.[1] ?? '0';
  if (!sameUserNamespace || ((BigInt(`0x${effective}`) >> CAP_SYS_RESOURCE) & 1n) === 1n) {
    return true;
  }
  return ['Uid', 'Gid'].every((field) => {
    const [own = ''] = idsOf(ownStatus, field);
    // The file system id is not compared.
    return idsOf(status, field)
      .slice(0, 3)
      .every((id) => id === own);
  });
}

/** @returns the user that keeps this process from the limits of another one; undefined when nothing does, or it has ended */
export function limitsKeptBy(hostPid: number): string | undefined {
  const own = readProc('/proc/self/status');
  const status = readProc(`/proc/${hostPid}/status`);
  if (own === undefined || status === undefined) {
    return undefined;
  }
  const same = readProcLink(`/proc/${hostPid}/ns/user`) === readProcLink('/proc/self/ns/user');
  return mayUseLimits(own, status, same) ? undefined : `${idsOf(status, 'Uid')[0]}:${idsOf(status, 'Gid')[0]}`;
}

/** Real, effective, saved, of the file system. */
function idsOf(status: string, field: string): string[] {
  return (new RegExp(`^${field}:\\s+(.*)$`, 'm').exec(status)?.[1] ?? '').split(/\s+/);
}

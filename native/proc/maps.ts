/* What a process has mapped and how much memory it takes. Source: proc_pid_maps(5), proc_pid_smaps(5). */
import { readProc, unescapeOctal } from './read.ts';

export interface Mapping {
  /** `<start>-<end>` as in /proc/<pid>/map_files */
  readonly range: string;
  readonly shared: boolean;
  /** `major:minor`, hexadecimal; `00:00` for anonymous memory */
  readonly device: string;
  readonly inode: number;
  /** empty for anonymous memory */
  readonly path: string;
  readonly deleted: boolean;
}

const DELETED = ' (deleted)';

export function parseMaps(text: string): Mapping[] {
  return text.split('\n').flatMap((line) => {
    const match = /^([0-9a-f]+-[0-9a-f]+) ...(.) [0-9a-f]+ (\S+) (\d+) *(.*)$/.exec(line);
    if (match === null) {
      return [];
    }
    const [, range = '', sharing, device = '', inode, rawPath = ''] = match;
    const path = unescapeOctal(rawPath);
    const deleted = path.endsWith(DELETED);
    return [
      {
        range,
        shared: sharing === 's',
        device,
        inode: Number(inode),
        path: deleted ? path.slice(0, -DELETED.length) : path,
        deleted,
      },
    ];
  });
}

/** Empty when the process is gone. */
export function readMaps(hostPid: number): Mapping[] {
  return parseMaps(readProc(`/proc/${hostPid}/maps`) ?? '');
}

/**
 * Bytes that a dump of this process will write, roughly: anonymous and swapped pages, and its part of shared memory.
 * 0 when the process is gone.
 */
export function dumpableBytes(hostPid: number): number {
  const rollup = readProc(`/proc/${hostPid}/smaps_rollup`) ?? '';
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+) kB$`, 'm').exec(rollup)?.[1] ?? 0);
  return (kib('Anonymous') + kib('Swap') + kib('Pss_Shmem')) * 1024;
}

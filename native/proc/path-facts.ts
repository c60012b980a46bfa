/* What lies at a path of this node: its kind, and the file system. */
import { statfsSync, statSync, type Stats } from 'node:fs';

export interface PathFacts {
  readonly kind: 'directory' | 'file' | 'character device' | 'block device' | 'socket' | 'pipe' | 'other';
  /** by its magic number; absent: not one of the known ones */
  readonly fileSystem?: string;
}

/** Source: include/uapi/linux/magic.h. */
const FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0xef53, 'ext4'],
  [0x5846_5342, 'xfs'],
  [0x9123_683e, 'btrfs'],
  [0x0102_1994, 'tmpfs'],
  [0x794c_7630, 'overlay'],
  [0x6969, 'nfs'],
  [0x6573_5546, 'fuse'],
  [0xff53_4d42, 'cifs'],
  [0x00c3_6400, 'ceph'],
  [0x2fc1_2fc1, 'zfs'],
  [0x9fa0, 'proc'],
  [0x6265_6572, 'sysfs'],
  [0x0bd0_0bd0, 'lustre'],
  [0x9584_58f6, 'hugetlbfs'],
]);

/** @returns undefined when nothing is there */
export function pathFacts(path: string): PathFacts | undefined {
  try {
    const fileSystem = FILE_SYSTEMS.get(statfsSync(path).type);
    return { kind: kindOf(statSync(path)), ...(fileSystem === undefined ? {} : { fileSystem }) };
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EACCES', 'ESTALE', 'ELOOP'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return undefined;
    }
    throw error;
  }
}

function kindOf(stats: Stats): PathFacts['kind'] {
  if (stats.isDirectory()) {
    return 'directory';
  }
  if (stats.isFile()) {
    return 'file';
  }
  if (stats.isCharacterDevice()) {
    return 'character device';
  }
  if (stats.isBlockDevice()) {
    return 'block device';
  }
  return stats.isSocket() ? 'socket' : stats.isFIFO() ? 'pipe' : 'other';
}

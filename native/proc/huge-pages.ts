/* Reserved huge pages (hugetlb), in use and free. Sources: proc_pid_status(5), proc_pid_smaps(5), mm/hugetlb.c. */
import { readdirSync } from 'node:fs';
import { readProc } from './read.ts';

export interface HugePageUse {
  readonly pageBytes: number;
  readonly bytes: number;
}

/** Mappings of `VmFlags: ... ht`, by the size of their pages: what is mapped is reserved, touched or not. */
export function parseHugePages(smaps: string): HugePageUse[] {
  const uses = new Map<number, number>();
  for (const mapping of smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    if (/^VmFlags:.*\bht\b/m.test(mapping)) {
      const field = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+) kB`, 'm').exec(mapping)?.[1] ?? 0);
      const pageBytes = field('KernelPageSize') * 1024;
      uses.set(pageBytes, (uses.get(pageBytes) ?? 0) + field('Size') * 1024);
    }
  }
  return [...uses].map(([pageBytes, bytes]) => ({ pageBytes, bytes }));
}

/** What these processes have mapped; a page that they share counts for each. smaps is read only where there are any. */
export function hugePagesOf(hostPids: readonly number[]): HugePageUse[] {
  const uses = new Map<number, number>();
  for (const pid of hostPids) {
    if (!/ \/anon_hugepage| hugetlbfs|\/hugepages|SYSV/.test(readProc(`/proc/${pid}/maps`) ?? '') && !hasHugetlb(pid)) {
      continue;
    }
    for (const { pageBytes, bytes } of parseHugePages(readProc(`/proc/${pid}/smaps`) ?? '')) {
      uses.set(pageBytes, (uses.get(pageBytes) ?? 0) + bytes);
    }
  }
  return [...uses].map(([pageBytes, bytes]) => ({ pageBytes, bytes }));
}

function hasHugetlb(pid: number): boolean {
  return Number(/^HugetlbPages:\s*(\d+)/m.exec(readProc(`/proc/${pid}/status`) ?? '')?.[1] ?? 0) > 0;
}

const HUGE_PAGES_DIR = '/sys/kernel/mm/hugepages';

/** Page size → bytes in free pages that nobody has reserved; empty where the kernel has no hugetlb. */
export function freeHugePages(): ReadonlyMap<number, number> {
  let names: string[];
  try {
    names = readdirSync(HUGE_PAGES_DIR);
  } catch {
    // ENOENT: a kernel without CONFIG_HUGETLBFS.
    return new Map();
  }
  return new Map(
    names.flatMap((name): Array<[number, number]> => {
      const pageBytes = Number(/^hugepages-(\d+)kB$/.exec(name)?.[1] ?? 0) * 1024;
      const count = (file: string): number => Number(readProc(`${HUGE_PAGES_DIR}/${name}/${file}`) ?? 0);
      return pageBytes === 0 ? [] : [[pageBytes, (count('free_hugepages') - count('resv_hugepages')) * pageBytes]];
    }),
  );
}

/* The memory of a running process as CRIU would dump it: pages-1.img and its pagemap, of private writable memory. */
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { pagemapImage, type PageRun } from '../../test/harness/checkpoint-dir.ts';
import { mkdir, writeFile } from 'node:fs/promises';

const PAGE = 4096;
const BLOCK_PAGES = 1024;

/** Writes `criu/pages-1.img` and `criu/pagemap-1.img` below `dir`; the process runs on meanwhile. @returns bytes */
export async function dumpMemory(pid: number, dir: string): Promise<number> {
  const maps = await readFile(`/proc/${pid}/maps`, 'utf8');
  await mkdir(join(dir, 'criu'), { recursive: true });
  const memory = await open(`/proc/${pid}/mem`, 'r');
  const pagemap = await open(`/proc/${pid}/pagemap`, 'r');
  const pages = await open(join(dir, 'criu/pages-1.img'), 'wx');
  const runs: PageRun[] = [];
  let bytes = 0;
  try {
    for (const [first, count] of writableRanges(maps)) {
      for (let page = first; page < first + count; page += BLOCK_PAGES) {
        for (const run of await presentRuns(pagemap, page, Math.min(BLOCK_PAGES, first + count - page))) {
          const block = Buffer.alloc(run.pages * PAGE);
          await memory.read(block, 0, block.length, run.vaddr);
          await pages.write(block);
          bytes += block.length;
          runs.push(run);
        }
      }
    }
  } finally {
    await Promise.all([memory.close(), pagemap.close(), pages.close()]);
  }
  await writeFile(join(dir, 'criu/pagemap-1.img'), pagemapImage(1, runs));
  return bytes;
}

/** [first page, pages] of private, readable and writable memory. */
function writableRanges(maps: string): Array<readonly [number, number]> {
  return maps
    .split('\n')
    .map((line) => /^([0-9a-f]+)-([0-9a-f]+) rw.p/.exec(line))
    .filter((match) => match !== null)
    .map(([, from = '', to = '']) => [parseInt(from, 16) / PAGE, (parseInt(to, 16) - parseInt(from, 16)) / PAGE]);
}

async function presentRuns(pagemap: FileHandle, first: number, count: number): Promise<PageRun[]> {
  const entries = Buffer.alloc(count * 8);
  await pagemap.read(entries, 0, entries.length, first * 8);
  const runs: Array<{ vaddr: number; pages: number }> = [];
  for (let page = 0; page < count; page += 1) {
    // bit 63: present (Documentation/admin-guide/mm/pagemap.rst)
    if ((entries[page * 8 + 7] ?? 0) < 128) {
      continue;
    }
    const last = runs.at(-1);
    const vaddr = (first + page) * PAGE;
    if (last !== undefined && last.vaddr + last.pages * PAGE === vaddr) {
      last.pages += 1;
    } else {
      runs.push({ vaddr, pages: 1 });
    }
  }
  return runs;
}

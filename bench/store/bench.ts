/*
 * npm run bench -- store <pack | upload | download | incremental | sparse | copy | stages> [--mib 256] [--rounds 5] [--full] [--out file.json]
 *
 * Ours and its peers run in turn in one run, on images that lie in memory (a tmpfs), so that no disk is judged. Ratios
 * are those of medians: of wall-clock time, and of processor time, which other work on the machine disturbs less.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { checkPrograms } from './peers.ts';
import type { BenchOptions, Row } from './report.ts';
import { bundleChild } from './subject-process.ts';

const SUBJECTS: Readonly<Record<string, () => Promise<(options: BenchOptions) => Promise<Row[]>>>> = {
  pack: async () => (await import('./pack.ts')).packBench,
  upload: async () => (await import('./transfer.ts')).uploadBench,
  download: async () => (await import('./transfer.ts')).downloadBench,
  incremental: async () => (await import('./incremental.ts')).incrementalBench,
  sparse: async () => (await import('./sparse.ts')).sparseBench,
  stages: async () => (await import('./stages.ts')).stagesBench,
  copy: async () => (await import('./copy.ts')).copyBench,
};
export const STORE_SUBJECTS = Object.keys(SUBJECTS);

export interface StoreBenchFlags {
  readonly mib?: string | undefined;
  readonly rounds?: string | undefined;
  readonly full?: boolean | undefined;
  readonly out?: string | undefined;
}

/** @returns the report, which is also printed; one line of JSON */
export async function runStoreBench(subject: string, flags: StoreBenchFlags): Promise<string> {
  const load = SUBJECTS[subject];
  if (load === undefined) {
    throw new Error(`usage: npm run bench -- store <${STORE_SUBJECTS.join(' | ')}> [--mib 256] [--rounds 5] [--full]`);
  }
  const programs = await checkPrograms();
  const dir = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'kybernate-bench-'));
  try {
    const run = await load();
    const mib = flags.full === true ? 2048 : Number(flags.mib ?? 256);
    const rounds = Number(flags.rounds ?? 5);
    const rows = await run({ mib, rounds, dir, bundle: await bundleChild(), say: console.log });
    const machine = {
      processor: cpus()[0]?.model,
      processors: availableParallelism(),
      programs,
      node: process.version,
    };
    const report = JSON.stringify({ subject: `store ${subject}`, mib, rounds, machine, rows });
    if (flags.out !== undefined) {
      await writeFile(flags.out, `${JSON.stringify(JSON.parse(report), null, 1)}\n`);
    }
    return report;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

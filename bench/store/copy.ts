/*
 * Ways of a file's bytes that are not transformed: from one file to another on this node, and from a process to the next
 * by a file or by a pipe. In a directory of the disk, because a file system in memory shares no blocks.
 */
import { spawn } from 'node:child_process';
import { constants, copyFileSync, openSync, readSync, writeSync, closeSync, statfsSync } from 'node:fs';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { randomFillSync } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inTurn, rounded, type Cost } from './measure.ts';
import type { BenchOptions, Row } from './report.ts';

const BLOCK_BYTES = 2 ** 20;

export async function copyBench({ mib, rounds, dir: memory, say }: BenchOptions): Promise<Row[]> {
  const disk = await mkdtemp(join(tmpdir(), 'kybernate-bench-'));
  const rows: Row[] = [];
  try {
    for (const [place, dir] of [
      ['memory', memory],
      ['disk', disk],
    ] as const) {
      const source = join(dir, 'source');
      const target = join(dir, 'target');
      await makeSource(source, mib);
      const acts = {
        readWrite: () => timed(target, () => readAndWrite(source, target)),
        copyFileRange: () => timed(target, () => copyFileSync(source, target)),
        readFile: () => timed(target, () => drain(openSync(source, 'r'))),
        pipe: () => timed(target, () => throughPipe(source)),
      };
      const medians = await inTurn(acts, rounds);
      const perGiB = (cost: Cost): number => rounded((cost.cpuMs / 1000) * (1024 / mib));
      const row = {
        name: place,
        goal: 'copy_file_range and files cost no more than reading and writing, and pipes',
        holds: medians.copyFileRange.cpuMs <= medians.readWrite.cpuMs && medians.readFile.cpuMs <= medians.pipe.cpuMs,
        fileSystemType: `0x${statfsSync(dir).type.toString(16)}`,
        reflink: await canReflink(source, target),
        cpuSecondsPerGiB: {
          readWrite: perGiB(medians.readWrite),
          copyFileRange: perGiB(medians.copyFileRange),
          readFile: perGiB(medians.readFile),
          pipe: perGiB(medians.pipe),
        },
        medians,
      };
      say(`${place}: ${JSON.stringify(row)}`);
      rows.push(row);
      await rm(source);
    }
  } finally {
    await rm(disk, { recursive: true, force: true });
  }
  return rows;
}

async function makeSource(path: string, mib: number): Promise<void> {
  const file = await open(path, 'wx');
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let number = 0; number < mib; number += 1) {
    await file.write(randomFillSync(block));
  }
  await file.sync();
  await file.close();
}

/** Processor time is that of this process: of a pipe only the reader's half. */
async function timed(target: string, act: () => void | Promise<void>): Promise<Cost> {
  await rm(target, { force: true });
  const cpu = process.cpuUsage();
  const startedAt = performance.now();
  await act();
  const ms = performance.now() - startedAt;
  const { user, system } = process.cpuUsage(cpu);
  return { ms, cpuMs: (user + system) / 1000 };
}

function readAndWrite(source: string, target: string): void {
  const from = openSync(source, 'r');
  const to = openSync(target, 'wx');
  const block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  for (let read = readSync(from, block); read > 0; read = readSync(from, block)) {
    writeSync(to, block, 0, read);
  }
  closeSync(to);
  closeSync(from);
}

function drain(fd: number): void {
  const block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  while (readSync(fd, block) > 0) {
    // Only the cost of the reading is wanted.
  }
  closeSync(fd);
}

/** As a capture would hand its bytes over without a file. */
async function throughPipe(source: string): Promise<void> {
  const child = spawn('cat', [source], { stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const piece of child.stdout) {
    void piece;
  }
}

async function canReflink(source: string, target: string): Promise<boolean> {
  try {
    copyFileSync(source, target, constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch {
    // Whatever the file system says: it cannot.
    return false;
  } finally {
    await rm(target, { force: true });
  }
}

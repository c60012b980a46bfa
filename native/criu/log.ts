/* What CRIU's log files say. */
import { open } from 'node:fs/promises';

const TAIL_BYTES = 256 * 1024;
const MAX_LINES = 12;
const MAX_LINE_CHARACTERS = 400;
/** Written by every dump on machines whose root lacks CAP_SYS_RESOURCE, and by every undo; they explain nothing. */
const NOISE = [/rlimit: Can't setup RLIMIT_NOFILE for self/, /cgroupd: recv req error/, /Can't keep kdat cache/];

/** The last error lines of a dump.log or restore.log, oldest first, without their times. */
export function errorLinesIn(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => /\bError\b/.test(line) && !NOISE.some((noise) => noise.test(line)))
    .map((line) =>
      line
        .replace(/^\(\d+\.\d+\)\s*/, '')
        .trim()
        .slice(0, MAX_LINE_CHARACTERS),
    )
    .slice(-MAX_LINES);
}

/** Empty when there is no such file: CRIU was never started. */
export async function dumpErrorLines(file: string): Promise<string[]> {
  return errorLinesIn((await readTail(file)) ?? '');
}

/** The same file format on the restore side. */
export const restoreErrorLines: (file: string) => Promise<string[]> = dumpErrorLines;

/**
 * Identifier of the CRIU run that wrote the log; its nftables table is named by it. `criu swrk` logs one when it starts
 * and another for the dump itself: the last one counts.
 */
export function criuRunIdIn(text: string): string | undefined {
  return [...text.matchAll(/CRIU run id = (\S+)/g)].at(-1)?.[1];
}

/** Undefined when CRIU has not come so far. */
export async function criuRunId(file: string): Promise<string | undefined> {
  return criuRunIdIn((await readHead(file)) ?? '');
}

async function readHead(file: string): Promise<string | undefined> {
  return readPart(file, (bytes) => ({ from: 0, length: Math.min(bytes, TAIL_BYTES) }));
}

async function readTail(file: string): Promise<string | undefined> {
  return readPart(file, (bytes) => ({ from: Math.max(0, bytes - TAIL_BYTES), length: Math.min(bytes, TAIL_BYTES) }));
}

async function readPart(
  file: string,
  choose: (bytes: number) => { from: number; length: number },
): Promise<string | undefined> {
  let handle;
  try {
    handle = await open(file, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
  try {
    const { from, length } = choose((await handle.stat()).size);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, from);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await handle.close();
  }
}

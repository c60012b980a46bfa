/* Reading /proc, where everything may vanish between two calls. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** ESRCH: the process ended while its file was open. EACCES: a kernel thread, or another user's process. */
const GONE = new Set(['ENOENT', 'ESRCH', 'EACCES', 'EPERM', 'ENOTDIR']);

function orUndefined<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (GONE.has((error as NodeJS.ErrnoException).code ?? '')) {
      return undefined;
    }
    throw error;
  }
}

/** Content of a file, undefined when the process is gone. */
export function readProc(path: string): string | undefined {
  return orUndefined(() => readFileSync(path, 'utf8'));
}

/** Target of a link, undefined when the process is gone. */
export function readProcLink(path: string): string | undefined {
  return orUndefined(() => readlinkSync(path));
}

/** Numeric names of a directory in ascending order: pids of /proc, descriptors of /proc/<pid>/fd. */
export function numericEntries(path: string): number[] {
  const names = orUndefined(() => readdirSync(path)) ?? [];
  return names
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((left, right) => left - right);
}

/** Undoes the octal escapes (`\040`) of mountinfo, maps and net files. */
export function unescapeOctal(text: string): string {
  if (!text.includes('\\')) {
    return text;
  }
  const bytes = Buffer.from(text);
  const out: number[] = [];
  for (let index = 0; index < bytes.length; index += 1) {
    const octal = bytes[index] === 0x5c ? /^[0-3][0-7]{2}/.exec(bytes.toString('latin1', index + 1, index + 4)) : null;
    if (octal === null) {
      out.push(bytes[index] ?? 0);
    } else {
      out.push(Number.parseInt(octal[0], 8));
      index += 3;
    }
  }
  return Buffer.from(out).toString('utf8');
}

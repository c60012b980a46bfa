/* How a process is started whose memory must stay small whatever it moves: only at its start can that be said. */
import { execve, execArgv, execPath, argv } from 'node:process';
import type { Environment } from './config.ts';

/**
 * Blocks of a transfer come and go for hours. glibc keeps what was freed, in an arena for each thread, and raises the size
 * from which it gives a block back to the largest it has seen (mallopt(3), M_MMAP_THRESHOLD); mimalloc, which lz4-napi
 * brings along, gives back late; V8 lets what is young grow to 48 MiB. Packing 1 GiB three times, a process of Python,
 * peak with and without: 208 and 252 MiB with zstd, 265 and 380 with lz4.
 */
export const SMALL_MEMORY = {
  execArgv: ['--max-semi-space-size=2'],
  env: { MALLOC_ARENA_MAX: '2', MALLOC_MMAP_THRESHOLD_: '65536', MIMALLOC_PURGE_DELAY: '0' },
} as const;

/**
 * Becomes the same program, with the same pid, under `SMALL_MEMORY`; returns when it runs so already. To be called before
 * anything is opened. A variable that is set already is left as it is.
 */
export function limitMemory(env: Environment): void {
  const [option] = SMALL_MEMORY.execArgv;
  if (execArgv.includes(option)) {
    return;
  }
  const set = Object.fromEntries(
    Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  execve?.(execPath, [execPath, ...execArgv, option, ...argv.slice(1)], { ...SMALL_MEMORY.env, ...set });
}

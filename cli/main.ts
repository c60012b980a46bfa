#!/usr/bin/env node
/* Entry of the program: what must be so before anything else of it is loaded. The rest is in start.ts. */
import { existsSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { join } from 'node:path';
import { DRIVER_THREADS } from '../core/gpu/driver-threads.ts';
import { limitMemory } from '../workers/memory.ts';

const { env } = process;
const command = process.argv[2] ?? '';
// Starts this process anew: nothing is loaded twice.
if (command === 'sidecar') {
  limitMemory(env);
}
// A call of the GPU driver occupies a thread of libuv's pool for as long as the driver takes, one a process of a container,
// and files are read by the same threads. The pool is made when it is first used: nothing imported above does that.
if (['worker', 'runner', 'guard', 'gpu'].includes(command)) {
  env['UV_THREADPOOL_SIZE'] ??= DRIVER_THREADS;
}
const cacheDir = compileCacheDir();
if (cacheDir !== undefined) {
  enableCompileCache(cacheDir);
}
const { start } = await import('./start.ts');
await start(env);

/** Where Node keeps what it has compiled: half the time of a start. Node itself has read NODE_COMPILE_CACHE. */
function compileCacheDir(): string | undefined {
  if (process.geteuid?.() === 0) {
    // Root runs what it finds there: not below a home, which `sudo` may have left at its caller's.
    const stateDir = env['KYBERNATE_STATE_DIR'] ?? '/var/lib/kybernate';
    return existsSync(stateDir) ? join(stateDir, 'compile-cache') : undefined;
  }
  const caches = env['XDG_CACHE_HOME'] ?? (env['HOME'] === undefined ? undefined : join(env['HOME'], '.cache'));
  return caches === undefined ? undefined : join(caches, 'kybernate', 'node');
}

/* Directories of the cache and of the dev environment. */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

type Env = Readonly<Record<string, string | undefined>>;

/** KYBERNATE_CACHE, else $XDG_CACHE_HOME/kybernate, else ~/.cache/kybernate. */
export function cacheDir(env: Env): string {
  return env['KYBERNATE_CACHE'] || join(env['XDG_CACHE_HOME'] || join(env['HOME'] || homedir(), '.cache'), 'kybernate');
}

/** KYBERNATE_DEV_DIR, else `<cache>/dev`. */
export function devDir(env: Env): string {
  return resolve(env['KYBERNATE_DEV_DIR'] || join(cacheDir(env), 'dev'));
}

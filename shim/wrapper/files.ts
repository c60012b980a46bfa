/* Small synchronous file work of the wrapper. */
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';

export function exists(path: string): boolean {
  return existsSync(path);
}

/** Atomic, keeps the mode. A crash leaves the old text or the new one. */
export function replaceFile(path: string, text: string): void {
  const temporary = `${path}.kybernate`;
  writeFileSync(temporary, text, { mode: statSync(path).mode & 0o777 });
  renameSync(temporary, path);
}

/** The pid in a pid file; undefined when there is none. */
export function pidIn(path: string): number | undefined {
  const pid = existsSync(path) ? Number(readFileSync(path, 'utf8').trim()) : Number.NaN;
  return Number.isInteger(pid) && pid > 0 ? pid : undefined;
}

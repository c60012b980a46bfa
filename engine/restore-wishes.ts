/*
 * A restore that is asked for beside a container, not in it: `<runDir>/wishes/<container id>`. Docker's API has no way to
 * give a container annotations, and what stands in its configuration would restore it again at every later start. The
 * wrapper looks there when it creates a container; the operation that wrote the wish takes it away.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import type { RestoreWish } from '../core/oci/annotations.ts';

function wishFile(runDir: string, containerId: string): string {
  return join(runDir, 'wishes', containerId);
}

/** Atomic. */
export function writeWish(runDir: string, containerId: string, wish: RestoreWish): void {
  mkdirSync(join(runDir, 'wishes'), { recursive: true, mode: 0o700 });
  const file = wishFile(runDir, containerId);
  // The name with the dot is no container's.
  const temporary = join(runDir, 'wishes', `.${containerId}`);
  writeFileSync(temporary, JSON.stringify(wish), { mode: 0o600 });
  renameSync(temporary, file);
}

/** @returns undefined when nobody has one for this container */
export function readWish(runDir: string, containerId: string): RestoreWish | undefined {
  let text: string;
  try {
    text = readFileSync(wishFile(runDir, containerId), 'utf8');
  } catch (error) {
    // EACCES: a user's own runtime, which may not look there, and for which nobody has a wish.
    if (['ENOENT', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return undefined;
    }
    throw error;
  }
  return JSON.parse(text) as RestoreWish;
}

/** Idempotent. */
export function removeWish(runDir: string, containerId: string): void {
  rmSync(wishFile(runDir, containerId), { force: true });
}

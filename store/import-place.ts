/* Where an import puts a checkpoint: beside its place until it is whole, then under its name at once. */
import { readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { KybernateError } from '../core/errors.ts';
import { errnoOf, syncDir } from './files.ts';
import { committedRoot } from './metadata.ts';

/** A directory that is no checkpoint: what is left of a killed import is found by its name. */
export function stagingPath(checkpointsDir: string, id: string): string {
  return join(checkpointsDir, `.import-${process.pid}-${id}`);
}

/** @throws InvalidInput another checkpoint, or a directory that somebody else is making, has this name */
export async function isThere(path: string, root: string): Promise<boolean> {
  const present = await committedRoot(path);
  if (present === root) {
    return true;
  }
  if (present !== undefined) {
    throw new KybernateError('InvalidInput', `${path} is another checkpoint of the same id; nothing was imported`, {
      details: { present, imported: root },
    });
  }
  return false;
}

/** @throws InvalidInput somebody else makes it, or has left it half-made */
export async function renameIntoPlace(staging: string, path: string): Promise<void> {
  try {
    await rename(staging, path);
  } catch (error) {
    if (errnoOf(error) === 'ENOTEMPTY' || errnoOf(error) === 'EEXIST') {
      const message = `${path} is being made by somebody else, or was left half-made: remove it with \`kybernate rm\``;
      throw new KybernateError('InvalidInput', message, { details: { path }, cause: error });
    }
    throw error;
  }
  await syncDir(dirname(path));
}

/** What imports left that were killed. */
export async function removeLeftovers(checkpointsDir: string): Promise<void> {
  for (const name of await readdir(checkpointsDir)) {
    const pid = /^\.import-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) {
      await rm(join(checkpointsDir, name), { recursive: true, force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === 'EPERM';
  }
}

/*
 * Kybernate on a node, as a container image brings it: `<dir>/versions/<digest>` is a copy of the image's own tree, and
 * `<dir>/current` leads to the newest. Runners and guards of an operation go on in the version that started them, so an
 * old one stays until no process runs from it.
 */
import { cpSync, existsSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import { makeDirsDurably, renameDurably, syncTree } from '../../engine/durable-file.ts';

/** In the root of the tree: one line, the name of the version. */
export const DIGEST_FILE = 'digest';

function versionsDir(dir: string): string {
  return join(dir, 'versions');
}

/**
 * Copies the tree unless it is there.
 * Crash: it is copied under another name, flushed and renamed, so a version that is there is whole, after a power failure too.
 * @returns the directory of the version
 * @throws InvalidInput there is no such tree; DiskFull by the copy
 */
export async function installPayload(payload: string, dir: string): Promise<string> {
  const file = join(payload, DIGEST_FILE);
  if (!existsSync(file)) {
    throw new KybernateError(
      'InvalidInput',
      `${payload} is no tree of Kybernate's image: it has no file ${DIGEST_FILE}`,
    );
  }
  const digest = readFileSync(file, 'utf8').trim();
  if (!/^[0-9a-f]{8,64}$/.test(digest)) {
    throw new KybernateError('InvalidInput', `${file} holds ${JSON.stringify(digest)}, which is no digest`);
  }
  const target = join(versionsDir(dir), digest);
  if (!existsSync(target)) {
    const making = `${target}.new`;
    rmSync(making, { recursive: true, force: true });
    makeDirsDurably(versionsDir(dir), 0o755);
    cpSync(payload, making, { recursive: true, verbatimSymlinks: true });
    await syncTree(making);
    renameDurably(making, target);
  }
  const link = join(dir, 'current');
  rmSync(`${link}.new`, { force: true });
  symlinkSync(join('versions', digest), `${link}.new`);
  renameDurably(`${link}.new`, link);
  return target;
}

/** Programs of live processes; a process that ends meanwhile, or that we may not look at, is left out. */
function runningPrograms(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        return [readlinkSync(join('/proc', pid, 'exe'))];
      } catch {
        return [];
      }
    });
}

/**
 * Removes the versions but the newest that no process runs from.
 * @returns the names of those that are left
 */
export function removeOldVersions(dir: string, keep: string | undefined): string[] {
  const versions = versionsDir(dir);
  if (!existsSync(versions)) {
    return [];
  }
  const programs = runningPrograms();
  const left: string[] = [];
  for (const name of readdirSync(versions)) {
    const path = join(versions, name);
    if (path === keep || programs.some((program) => program.startsWith(`${path}/`))) {
      left.push(name);
    } else {
      rmSync(path, { recursive: true, force: true });
    }
  }
  return left;
}

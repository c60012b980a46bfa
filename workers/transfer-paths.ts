/*
 * Which directories a caller of the sidecar may name: below a configured root, reached through real directories that
 * nobody else can change meanwhile. The sidecar is not root, but its user owns the caches and the credentials.
 */
import type { Stats } from 'node:fs';
import { lstat } from 'node:fs/promises';
import { join, normalize, relative } from 'node:path';
import { KybernateError } from '../core/errors.ts';
import { errnoOf } from '../store/files.ts';

export interface Root {
  /** as callers name it */
  readonly dir: string;
  /** as this process reaches it */
  readonly path: string;
}

/**
 * @param mayBeMissing how many of the last parts need not exist
 * @returns the path by which this process reaches it
 * @throws InvalidInput the path is below no root, or has a symbolic link, a file or a directory that others may write in
 *   its way
 */
export async function pathBelow(roots: readonly Root[], path: string, mayBeMissing = 0): Promise<string> {
  const wanted = normalize(path).replace(/(.)\/+$/, '$1');
  const root = roots.find(({ dir }) => wanted.startsWith(`${dir}/`));
  if (root === undefined || path.split('/').includes('..')) {
    const known = roots.map(({ dir }) => dir).join(', ');
    throw new KybernateError('InvalidInput', `${path} is not below a root of the sidecar (${known}); nothing was done`);
  }
  const parts = relative(root.dir, wanted).split('/');
  let reached = root.path;
  for (const [index, part] of parts.entries()) {
    reached = join(reached, part);
    const info = await lstatOrNothing(reached);
    if (info === undefined) {
      if (parts.length - index > mayBeMissing) {
        throw new KybernateError('InvalidInput', `${join(root.dir, ...parts.slice(0, index + 1))} does not exist`);
      }
      break;
    }
    const owners = [0, process.geteuid?.() ?? 0];
    const mode = (info.mode & 0o7777).toString(8);
    if (!info.isDirectory() || (info.mode & 0o022) !== 0 || !owners.includes(info.uid)) {
      throw new KybernateError(
        'InvalidInput',
        `${path}: ${part} must be a directory of root or of the sidecar in which nobody else may write, no link; it is ` +
          `of user ${info.uid}, mode ${mode}`,
      );
    }
  }
  return join(root.path, ...parts);
}

async function lstatOrNothing(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}

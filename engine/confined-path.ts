/* Paths that somebody names and root reads: they count only below configured roots, where root alone can write. */
import { existsSync, lstatSync, realpathSync, type Stats } from 'node:fs';
import { join, relative } from 'node:path';
import { KybernateError, messageOf } from '../core/errors.ts';

export interface ConfinedPath {
  readonly roots: readonly string[];
  readonly path: string;
  /** for messages: `restore from` */
  readonly what: string;
  /** for messages: `the restore roots` */
  readonly rootsName: string;
  /** who may own it; 0 otherwise */
  readonly trustedUid?: number;
}

/**
 * The real path, when it lies below a root and nobody but root can change any part of it on the way.
 * @throws RestoreRefused
 */
export function confinedPath({ roots, path, what, rootsName, trustedUid = 0 }: ConfinedPath): string {
  let real: string;
  try {
    real = realpathSync(path);
  } catch (error) {
    throw new KybernateError('RestoreRefused', `${what} ${path} is refused: ${messageOf(error)}`);
  }
  const root = roots
    .filter((candidate) => existsSync(candidate))
    .map((candidate) => realpathSync(candidate))
    .find((candidate) => isBelow(candidate, real));
  if (root === undefined) {
    throw new KybernateError(
      'RestoreRefused',
      `${what} ${path} is refused: it is ${real}, below none of ${rootsName} (${roots.join(', ') || 'none set'})`,
      { details: { real, roots } },
    );
  }
  let current = root;
  checkOwned(current, lstatSync(current), { what, trustedUid });
  for (const name of relative(root, real).split('/')) {
    current = join(current, name);
    checkOwned(current, lstatSync(current), { what, trustedUid });
  }
  return real;
}

function isBelow(root: string, path: string): boolean {
  const rest = relative(root, path);
  return rest !== '' && rest !== '..' && !rest.startsWith('../');
}

/** @throws RestoreRefused */
export function checkOwned(
  path: string,
  stats: Stats,
  { what, trustedUid = 0 }: Pick<ConfinedPath, 'what' | 'trustedUid'>,
): void {
  if (stats.uid !== trustedUid || (stats.mode & 0o022) !== 0) {
    throw new KybernateError('RestoreRefused', `${what} ${path} is refused: it can be changed by others than root`);
  }
}

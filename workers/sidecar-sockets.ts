/*
 * The two sockets of a sidecar, in a directory of their own: `<run directory>/sidecar`. Whoever may write there could
 * put a socket of his own in their place, so nobody but the one that makes them may.
 */
import { chownSync, lstatSync, mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { KybernateError, messageOf } from '../core/errors.ts';
import type { Account } from './privileges.ts';
import { answers } from './unix-socket.ts';

export interface SidecarSockets {
  readonly dir: string;
  /** proto/transfer.proto */
  readonly grpc: string;
  /** the same calls as JSON, and the objects of the store */
  readonly http: string;
}

export function sidecarSockets(runDir: string): SidecarSockets {
  const dir = join(runDir, 'sidecar');
  return { dir, grpc: join(dir, 'transfer.sock'), http: join(dir, 'transfer-http.sock') };
}

/**
 * Makes the directory if it is missing.
 * @throws InvalidInput others may write there, or it cannot be made
 */
export function prepareSocketDir({ dir }: SidecarSockets): void {
  const own = process.geteuid?.() ?? 0;
  try {
    // The run directory is for root's parts; others pass through it to what they may reach.
    mkdirSync(dirname(dir), { recursive: true, mode: 0o711 });
    mkdirSync(dir, { recursive: true, mode: 0o711 });
  } catch (error) {
    throw new KybernateError('InvalidInput', `cannot make the directory of the sockets: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const info = lstatSync(dir);
  if (!info.isDirectory() || info.uid !== own || (info.mode & 0o022) !== 0) {
    const mode = (info.mode & 0o7777).toString(8);
    throw new KybernateError(
      'InvalidInput',
      `${dir} is no place for the sidecar's sockets (user ${info.uid}, mode ${mode}): it must be a directory of user ` +
        `${own} in which nobody else may write; no socket was made`,
    );
  }
}

/**
 * Replaces the socket of a sidecar that died.
 * @throws Internal a live one answers there
 */
export async function clearSocket(path: string): Promise<void> {
  if (await answers(path)) {
    throw new KybernateError('Internal', `another sidecar serves ${path}; one node has one`);
  }
  rmSync(path, { force: true });
}

/** Runs `bind` so that the socket that it makes is closed to others from its first moment, and gives it to the user. */
export async function bindPrivately(
  path: string,
  owner: Account | undefined,
  bind: () => Promise<void>,
): Promise<void> {
  const before = process.umask(0o177);
  try {
    await bind();
  } finally {
    process.umask(before);
  }
  if (owner !== undefined) {
    chownSync(path, owner.userId, owner.groupId);
  }
}

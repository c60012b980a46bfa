/* Files with secrets: read only where nobody else could have read or changed them. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { KybernateError, messageOf } from '../../core/errors.ts';

const MAX_BYTES = 65_536;

export interface FileDemand {
  /** for messages: what the file is, and which setting names it */
  readonly what: string;
  /** bits of the mode that must not be set */
  readonly forbiddenMode: number;
  /** root alone; otherwise the user of this process, too */
  readonly rootOnly?: boolean;
}

/** Nobody else may read it. */
export const SECRET_MODE = 0o077;
/** Everybody may read it, nobody else may change it. */
export const PUBLIC_MODE = 0o022;

/**
 * @throws InvalidInput when it cannot be read, is no regular file, belongs to somebody else or is open to others; the
 *   message never holds content
 */
export async function readGuardedFile(path: string, demand: FileDemand): Promise<Uint8Array> {
  let handle: FileHandle;
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw new KybernateError('InvalidInput', `${demand.what} ${path} cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
  try {
    const info = await handle.stat();
    const owners = demand.rootOnly === true ? [0] : [0, process.geteuid?.() ?? 0];
    if (!info.isFile() || info.size > MAX_BYTES) {
      throw new KybernateError(
        'InvalidInput',
        `${demand.what} ${path} is no regular file of at most ${MAX_BYTES} bytes`,
      );
    }
    if (!owners.includes(info.uid) || (info.mode & demand.forbiddenMode) !== 0) {
      const mode = (info.mode & 0o777).toString(8).padStart(4, '0');
      const wanted = demand.forbiddenMode === SECRET_MODE ? 'mode 0600' : 'not writable by others';
      const owner = demand.rootOnly === true ? 'root' : 'root or the user of this process';
      throw new KybernateError(
        'InvalidInput',
        `${demand.what} ${path} belongs to uid ${info.uid} with mode ${mode}; it must belong to ${owner}, ${wanted}`,
      );
    }
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}

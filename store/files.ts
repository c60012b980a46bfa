/* Files of a node: written so that they survive a power failure, with errors that say what a user can do. */
import { randomBytes } from 'node:crypto';
import { link, mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { KybernateError, messageOf } from '../core/errors.ts';

export function errnoOf(error: unknown): string | undefined {
  const code: unknown = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}

export function isDiskFull(error: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error) ?? '');
}

/** Turns "no room left" into DiskFull; every other error stays as it is. */
export function mapDiskFull(error: unknown, what: string): unknown {
  return isDiskFull(error)
    ? new KybernateError('DiskFull', `cannot write ${what}: ${messageOf(error)}; nothing half-made was left`, {
        details: { what },
        cause: error,
      })
    : error;
}

/** Flushes a directory, so that names in it survive a power failure. */
export async function syncDir(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export async function syncFile(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.datasync();
  } finally {
    await handle.close();
  }
}

/** Writes all of `bytes` at `position`: a single write may take less. */
export async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/**
 * Creates or replaces a file: temporary file, fsync, rename, fsync of the directory.
 * Crash: the old file or the new one is there, never a part; a file `<name>.<random>.tmp` may be left.
 */
export async function writeFileDurably(path: string, content: Uint8Array | string): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  await writeSynced(temporary, content);
  try {
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDir(dirname(path));
}

/** A new file with this content, flushed; removed again when writing fails. */
export async function writeSynced(path: string, content: Uint8Array | string): Promise<void> {
  const handle = await open(path, 'wx', 0o600);
  try {
    await handle.writeFile(content);
    await handle.datasync();
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
}

/** Gives `temporary` its final name unless that is taken; the temporary name goes in any case. */
export async function linkIfAbsent(temporary: string, path: string): Promise<boolean> {
  try {
    await link(temporary, path);
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') {
      return false;
    }
    throw error;
  } finally {
    await rm(temporary, { force: true });
  }
  await syncDir(dirname(path));
  return true;
}

/**
 * Makes `path` and its parents, each new name flushed in its own parent.
 * @returns the first that was made; undefined when all were there
 */
export async function makeDirsDurably(path: string): Promise<string | undefined> {
  const first = await mkdir(path, { recursive: true, mode: 0o700 });
  if (first === undefined) {
    return undefined;
  }
  for (let current = path; current.length >= first.length; current = dirname(current)) {
    await syncDir(dirname(current));
  }
  return first;
}

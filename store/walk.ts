/* What lies in a checkpoint directory: regular files only. */
import { readdir, lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { isOutsideContent, pathProblem } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';

export interface FoundFile {
  /** relative to the checkpoint directory */
  readonly path: string;
  readonly bytes: number;
}

/**
 * The files of the checkpoint's content in the order of a manifest; metadata, manifest and marks are left out.
 * @throws CheckpointCorrupt for a symbolic link, a device, a socket, a name that no manifest may carry
 */
export async function walkCheckpoint(dir: string, signal: AbortSignal): Promise<FoundFile[]> {
  const files: FoundFile[] = [];
  await walk(dir, '', files, signal);
  return files.sort((left, right) => (left.path < right.path ? -1 : 1));
}

async function walk(dir: string, prefix: string, files: FoundFile[], signal: AbortSignal): Promise<void> {
  for (const name of await readdir(join(dir, prefix))) {
    signal.throwIfAborted();
    const path = prefix === '' ? name : `${prefix}/${name}`;
    if (isOutsideContent(path)) {
      continue;
    }
    const problem = pathProblem(path);
    const info = await lstat(join(dir, path));
    if (problem !== undefined || !(info.isFile() || info.isDirectory())) {
      throw new KybernateError(
        'CheckpointCorrupt',
        `${join(dir, path)} ${problem ?? 'is neither a regular file nor a directory'}: it cannot be in a checkpoint`,
      );
    }
    if (info.isDirectory()) {
      await walk(dir, path, files, signal);
    } else {
      files.push({ path, bytes: info.size });
    }
  }
}

/* Files of a committed checkpoint: root's, and readable by the group of the sidecar, which sends them to the store. */
import { constants } from 'node:fs';
import { open, readdir, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';

const FILE_MODE = 0o640;
const DIR_MODE = 0o750;

/** By its open handle: a name could be a symbolic link by now. */
export async function shareHandle(handle: FileHandle, kind: 'file' | 'dir', groupId: number): Promise<void> {
  await handle.chown(process.geteuid?.() ?? 0, groupId);
  await handle.chmod(kind === 'dir' ? DIR_MODE : FILE_MODE);
}

/** Opens a regular file or directory, never what a symbolic link points to. */
export function openNoFollow(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
}

/**
 * Lets the group read a directory and everything below it. The directory itself last: a tree that is half done is
 * closed. Idempotent.
 */
export async function shareTree(dir: string, groupId: number): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) {
      await shareTree(path, groupId);
    } else if (entry.isFile()) {
      await share(path, 'file', groupId);
    }
  }
  await share(dir, 'dir', groupId);
}

async function share(path: string, kind: 'file' | 'dir', groupId: number): Promise<void> {
  const handle = await openNoFollow(path);
  try {
    await shareHandle(handle, kind, groupId);
  } finally {
    await handle.close();
  }
}

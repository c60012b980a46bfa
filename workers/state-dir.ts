/*
 * Who may enter the state directory. The sidecar's group may pass through it and read checkpoints; everything else in
 * it is closed by its own mode, and the group writes nowhere.
 */
import { constants } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';

/** Where the checkpoints of a node lie. */
export function checkpointsDir(stateDir: string): string {
  return join(stateDir, 'checkpoints');
}

/** Makes both directories, or sets right those that are there. As root only. */
export async function openToGroup(stateDir: string, groupId: number): Promise<void> {
  for (const [dir, mode] of [
    [stateDir, 0o710],
    [checkpointsDir(stateDir), 0o750],
  ] as const) {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const handle = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    try {
      await handle.chown(0, groupId);
      await handle.chmod(mode);
    } finally {
      await handle.close();
    }
  }
}

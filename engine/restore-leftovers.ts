/*
 * runc mounts the root file system of a container that it restores once more, at `<runc root>/<id>/criu-root`, and takes
 * it away when CRIU is done. A runc that is killed meanwhile leaves it, and the next `runc delete --force` would remove
 * the directory with everything in it: through the mount, the files of the container, or of the host directory that is
 * its root. So the mount goes first, always. `kybernate-runc` does the same when the shim deletes.
 * Source: runc, libcontainer/criu_linux.go (Restore) and delete.go.
 */
import { existsSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { KybernateError, messageOf } from '../core/errors.ts';
import type { Run } from '../native/run/run.ts';

/**
 * Idempotent. A container that runc knows is left alone but for the mount.
 * @param runcRoot runc's `--root`
 * @throws Internal the mount is still there: nothing may delete below the directory
 */
export async function clearDeadRestore(run: Run, runcRoot: string, id: string): Promise<void> {
  const dir = join(runcRoot, id);
  const criuRoot = join(dir, 'criu-root');
  if (!existsSync(criuRoot)) {
    return;
  }
  // Lazily: processes of a CRIU that is just giving up may still stand in it.
  await run('umount', ['--lazy', '--recursive', criuRoot]);
  try {
    rmdirSync(criuRoot);
  } catch (error) {
    throw new KybernateError('Internal', `${criuRoot} of a restore that died cannot be removed: ${messageOf(error)}`);
  }
  if (!existsSync(join(dir, 'state.json'))) {
    rmdirSync(dir);
  }
}

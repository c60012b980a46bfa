/*
 * runc mounts the root file system of a container that it restores once more, at `<runc root>/<id>/criu-root`, and takes
 * it away when CRIU is done. A runc that is killed meanwhile leaves it, and the next `runc delete --force` would remove
 * the directory with everything in it: through the mount, the files of the container, or of the host directory that is
 * its root. So the mount goes first, always. `kybernate-runc` does the same when the shim deletes.
 * Source: runc, libcontainer/criu_linux.go (Restore) and delete.go.
 *
 * A CRIU that is killed ends none of the tasks that it was making, and runc, which writes its state at the end, knows of no
 * container to end: they would stay in the container's cgroup, where runc refuses every later restore.
 */
import { existsSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError, messageOf } from '../core/errors.ts';
import { sliceSteps } from '../core/oci/cgroups-path.ts';
import { cgroupPids } from '../native/proc/cgroup.ts';
import { listProcesses, readProcess } from '../native/proc/tree.ts';
import type { Run } from '../native/run/run.ts';

const CGROUPS = '/sys/fs/cgroup';
const GONE_MS = 5000;
const POLL_MS = 10;

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

export interface HalfRestored {
  /** runc's `--root` */
  readonly runcRoot: string;
  readonly id: string;
  /** `linux.cgroupsPath` of its specification */
  readonly cgroupsPath: string | undefined;
}

/**
 * Ends what a dead CRIU left in the cgroup of a container that runc does not know, and takes the cgroup away. A cgroup that
 * is not named after the container, or holds no task of a CRIU that is gone, is somebody else's and left alone. Idempotent.
 * @returns host pids that were ended
 * @throws Internal one cannot be killed
 */
export async function endHalfRestored(
  { runcRoot, id, cgroupsPath }: HalfRestored,
  cgroups: string = CGROUPS,
): Promise<readonly number[]> {
  const path = ownCgroup(cgroupsPath, id);
  if (path === undefined || existsSync(join(runcRoot, id, 'state.json'))) {
    return [];
  }
  const roots = existsSync(join(cgroups, 'cgroup.controllers'))
    ? [cgroups]
    : readdirSync(cgroups).map((name) => join(cgroups, name));
  const dirs = roots.map((root) => join(root, path)).filter((dir) => existsSync(dir));
  const ended = new Set<number>();
  for (const deadline = performance.now() + GONE_MS; ;) {
    const pids = [...new Set(dirs.flatMap((dir) => cgroupPids(dir)))];
    if (pids.length === 0) {
      break;
    }
    if (ended.size === 0 && !isHalfRestored(pids)) {
      return [];
    }
    if (performance.now() > deadline) {
      throw new KybernateError(
        'Internal',
        `processes ${pids.join(', ')} of a restore of ${id} that died are still in the cgroup ${path} after SIGKILL`,
      );
    }
    dirs.forEach(thawNow);
    pids.forEach((pid) => {
      ended.add(pid);
      killNow(pid);
    });
    await sleep(POLL_MS);
  }
  dirs.forEach(removeGroup);
  return [...ended];
}

/** A task keeps CRIU's name until it is whole; the parent of the outermost one is runc or CRIU while the restore lives. */
function isHalfRestored(pids: readonly number[]): boolean {
  const inside = listProcesses().filter(({ hostPid }) => pids.includes(hostPid));
  const outermost = inside.filter(({ parentHostPid }) => !pids.includes(parentHostPid));
  return (
    inside.some(({ command, commandLine }) => command === 'criu' || commandLine.startsWith('criu: restore')) &&
    outermost.every(({ parentHostPid }) => !/^(?:criu|runc|crun)/.test(readProcess(parentHostPid)?.command ?? ''))
  );
}

/** Below the root of a hierarchy. Source: runc, docs/systemd.md: `slice:prefix:name`. */
function ownCgroup(cgroupsPath: string | undefined, id: string): string | undefined {
  const [slice, prefix, name, ...more] = cgroupsPath?.split(':') ?? [];
  if (slice === undefined || more.length > 0 || slice.split('/').includes('..')) {
    return undefined;
  }
  if (prefix !== undefined && name !== undefined) {
    return name === id ? join('/', ...sliceSteps(slice), `${prefix}-${name}.scope`) : undefined;
  }
  return prefix === undefined && basename(slice) === id ? join('/', slice) : undefined;
}

/** SIGKILL takes effect when a task runs. */
function thawNow(dir: string): void {
  for (const [file, value] of [
    ['freezer.state', 'THAWED'],
    ['cgroup.freeze', '0'],
  ] as const) {
    if (existsSync(join(dir, file))) {
      writeFileSync(join(dir, file), value);
    }
  }
}

function killNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // ESRCH: it has ended.
  }
}

function removeGroup(dir: string): void {
  try {
    readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .forEach((entry) => removeGroup(join(dir, entry.name)));
    rmdirSync(dir);
  } catch {
    // Gone, or in use again: an empty group disturbs nobody.
  }
}

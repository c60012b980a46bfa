/*
 * The bundle of a container is made by containerd and removed by it. A containerd that is killed while it makes or deletes
 * a task can leave it, with nobody at work in it; every later task of this id is refused then ("mkdir …: file exists"),
 * until containerd is started again.
 * Source: containerd 2.4, core/runtime/v2/bundle.go (NewBundle) and shim_load.go; seen when it was killed in a restore.
 */
import { existsSync, readlinkSync, rmdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { KybernateError, messageOf } from '../core/errors.ts';
import { readMounts } from '../native/proc/mounts.ts';
import { type ListedProcess, listProcesses } from '../native/proc/tree.ts';
import type { NodeDeps } from './node-deps.ts';

interface ContainerPlace {
  readonly namespace: string;
  readonly id: string;
}

/**
 * Shims work in the directory of their bundle; the runtime names it in its arguments.
 * @returns host pids, our own process left out
 */
export function bundleUsers(bundle: string): readonly number[] {
  return liveOthers()
    .filter((user) => namesBundle(user, bundle) || workingDirectory(user.hostPid) === bundle)
    .map(({ hostPid }) => hostPid);
}

/** Those of them that make its container: the wrapper, and the runc that it becomes. @returns host pids */
export function makersIn(bundle: string): readonly number[] {
  return liveOthers()
    .filter((user) => namesBundle(user, bundle) && ` ${user.commandLine} `.includes(' create '))
    .map(({ hostPid }) => hostPid);
}

function liveOthers(): readonly ListedProcess[] {
  return listProcesses().filter(({ hostPid, state }) => hostPid !== process.pid && state !== 'Z');
}

function namesBundle({ commandLine }: ListedProcess, bundle: string): boolean {
  return ` ${commandLine} `.includes(` --bundle ${bundle} `);
}

function workingDirectory(hostPid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${hostPid}/cwd`);
  } catch {
    // ENOENT: it has ended.
    return undefined;
  }
}

/** Is there a shim of this container, whether containerd knows of its task or not? */
export function hasShim({ namespace, id }: ContainerPlace): boolean {
  return listProcesses().some(
    ({ commandLine, state }) =>
      state !== 'Z' &&
      basename(commandLine.split(' ', 1)[0] ?? '').startsWith('containerd-shim') &&
      ` ${commandLine} `.includes(` -namespace ${namespace} `) &&
      ` ${commandLine} `.includes(` -id ${id} `),
  );
}

/** The bundle in whose way containerd's own answer says that one lies. */
export function bundleInTheWay(error: unknown, { namespace, id }: ContainerPlace): string | undefined {
  const path = /\bmkdir (\/\S+): file exists/.exec(messageOf(error))?.[1];
  return path !== undefined && basename(path) === id && basename(dirname(path)) === namespace ? path : undefined;
}

/**
 * Removes a bundle whose task containerd does not know, and in which nobody works. Its root file system is unmounted, never
 * removed: below the mount are the container's files. Idempotent.
 * @returns false when somebody still has it
 * @throws Internal something is mounted there that cannot be unmounted
 */
export async function removeDeadBundle(
  { containerd, run }: Pick<NodeDeps, 'containerd' | 'run'>,
  container: ContainerPlace,
  bundle: string,
): Promise<boolean> {
  if (!existsSync(bundle)) {
    return true;
  }
  if ((await containerd.getTask(container.namespace, container.id)) !== undefined || bundleUsers(bundle).length > 0) {
    return false;
  }
  const rootfs = join(bundle, 'rootfs');
  if (mountsIn(bundle).length > 0) {
    await run('umount', ['--lazy', '--recursive', rootfs]);
  }
  try {
    if (mountsIn(bundle).length > 0) {
      throw new Error(`${mountsIn(bundle).join(', ')} is still mounted`);
    }
    if (existsSync(rootfs)) {
      // Refuses a directory with anything in it.
      rmdirSync(rootfs);
    }
  } catch (error) {
    throw new KybernateError(
      'Internal',
      `${bundle}, which a containerd that was killed has left, cannot be removed: ${messageOf(error)}`,
      { cause: error },
    );
  }
  await rm(bundle, { recursive: true, force: true });
  return true;
}

function mountsIn(bundle: string): readonly string[] {
  return readMounts('self')
    .map(({ mountPoint }) => mountPoint)
    .filter((path) => path.startsWith(`${bundle}/`));
}

/*
 * What tests do to containers many times a second, by containerd's own calls and the files of /proc: a `ctr`, or a process
 * started inside, costs a hundred times as much.
 */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';

import { isKybernateError } from '../../core/errors.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';

const END_MS = 30_000;

/** Host pid of the container's first process. @throws when it does not run */
export async function initPidOf(containerd: Containerd, namespace: string, id: string): Promise<number> {
  const task = await containerd.getTask(namespace, id);
  if (task === undefined || task.status === 'stopped') {
    throw new Error(`container ${id} does not run`);
  }
  return task.pid;
}

/** Content of a file as the first process of the container sees it. */
export async function readInside(containerd: Containerd, namespace: string, id: string, path: string): Promise<string> {
  return readFileSync(`/proc/${await initPidOf(containerd, namespace, id)}/root${path}`, 'utf8');
}

/** Ends it, whatever it does, and removes it with its files. Nothing happens when there is none. */
export async function removeContainer(containerd: Containerd, namespace: string, id: string): Promise<void> {
  const record = await containerd.getContainer(namespace, id);
  if ((await containerd.getTask(namespace, id)) !== undefined) {
    await containerd.killTask(namespace, id, constants.signals.SIGKILL, true);
    await containerd.waitTask(namespace, id, AbortSignal.timeout(END_MS)).catch(unlessGone);
    await containerd.deleteTask(namespace, id);
  }
  await containerd.deleteContainer(namespace, id);
  if (record !== undefined && record.snapshotKey !== '') {
    await containerd.removeSnapshot(namespace, record.snapshotter, record.snapshotKey);
  }
}

/** A `ctr` that is attached to a container deletes its task itself. */
function unlessGone(error: unknown): void {
  if (!isKybernateError(error, 'ContainerNotFound')) {
    throw error;
  }
}

/*
 * The own layer of a stopped container of Docker, set back to empty for a restore that brings its files, and kept until
 * that has succeeded: `diff` becomes `diff.kybernate-<operation>` beside it. Docker mounts the overlay when it starts the
 * container, and removes the whole directory with the container.
 */
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../../core/errors.ts';

const UNMOUNT_MS = 20_000;
const POLL_MS = 50;

function asideOf(upperDir: string, operationId: string): string {
  return `${upperDir}.kybernate-${operationId}`;
}

/**
 * Idempotent.
 * @throws Internal the container's root is mounted
 * Crash: the layer lies aside, perhaps with nothing in its place; `bringBackLayer` undoes both.
 */
export async function setLayerAside(upperDir: string, operationId: string): Promise<void> {
  const aside = asideOf(upperDir, operationId);
  await unmounted(upperDir);
  if (!existsSync(aside)) {
    renameSync(upperDir, aside);
  }
  if (!existsSync(upperDir)) {
    const { mode, uid, gid } = statSync(aside);
    // It gets its name when it is as the other one was: a crash leaves it nameless, for the next call.
    const fresh = `${aside}.new`;
    rmSync(fresh, { recursive: true, force: true });
    mkdirSync(fresh);
    chownSync(fresh, uid, gid);
    chmodSync(fresh, mode & 0o7777);
    renameSync(fresh, upperDir);
  }
}

/** Idempotent. @throws Internal the container's root is still mounted */
export async function bringBackLayer(upperDir: string, operationId: string): Promise<void> {
  const aside = asideOf(upperDir, operationId);
  if (!existsSync(aside)) {
    return;
  }
  await unmounted(upperDir);
  rmSync(upperDir, { recursive: true, force: true });
  rmSync(`${aside}.new`, { recursive: true, force: true });
  renameSync(aside, upperDir);
}

/** The restore has succeeded. Idempotent. */
export function dropLayer(upperDir: string, operationId: string): void {
  rmSync(asideOf(upperDir, operationId), { recursive: true, force: true });
}

/** Docker unmounts a moment after it has told that a container ended: in the node's mount namespace, which may not be ours. */
async function unmounted(upperDir: string): Promise<void> {
  const deadline = performance.now() + UNMOUNT_MS;
  while (isMounted(upperDir)) {
    if (performance.now() > deadline) {
      throw new KybernateError('Internal', `the layer ${upperDir} is still mounted: its container does not end`);
    }
    await sleep(POLL_MS);
  }
}

function isMounted(upperDir: string): boolean {
  return ['/proc/1/mountinfo', '/proc/self/mountinfo'].some((file) =>
    readFileSync(file, 'utf8').replaceAll('\n', ',').includes(`upperdir=${upperDir},`),
  );
}

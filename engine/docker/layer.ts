/*
 * The own layer of a container of Docker while files are restored into it. Docker mounts the overlay when it starts the
 * container, and removes the whole directory with the container. Beside the layer, `diff`, lie
 *   kybernate-restoring        the operation, from before the layer is touched until its processes run: meanwhile only that
 *                              operation can start the container (the runtime refuses), also after a reboot, where Docker
 *                              starts by itself what has a restart policy
 *   diff.kybernate-<operation> the layer of before of a stopped source, until the restore is over
 * So after a reboot what is held is undone, and what is set aside and not held was restored.
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../../core/errors.ts';
import { replaceDurably, syncPath } from '../durable-file.ts';

const UNMOUNT_MS = 20_000;
const POLL_MS = 50;

const HOLD_FILE = 'kybernate-restoring';

function asideOf(upperDir: string, operationId: string): string {
  return `${upperDir}.kybernate-${operationId}`;
}

/** From now on only the operation can start the container, also after a power failure. Idempotent. */
export function holdLayer(upperDir: string, operationId: string): void {
  if (holderOf(upperDir) !== operationId) {
    replaceDurably(holdOf(upperDir), (path) => writeFileSync(path, operationId, { mode: 0o600, flag: 'wx' }));
  }
}

/** Its files are whole again. On the disk when it returns: the note of the operation may go after it. Idempotent. */
export function letLayerGo(upperDir: string): void {
  if (existsSync(holdOf(upperDir))) {
    rmSync(holdOf(upperDir), { force: true });
    syncPath(dirname(upperDir));
  }
}

/** @returns the operation that is restoring into it, or did when the node went down */
export function holderOf(upperDir: string): string | undefined {
  try {
    return readFileSync(holdOf(upperDir), 'utf8');
  } catch (error) {
    // EACCES: a user's own runtime, into whose containers nobody restores by Docker.
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return undefined;
    }
    throw error;
  }
}

/** @param rootPath of a specification: Docker mounts the overlay beside its layer */
export function holderOfRoot(rootPath: string): string | undefined {
  return basename(rootPath) === 'merged' ? holderOf(join(dirname(rootPath), 'diff')) : undefined;
}

export function isAside(upperDir: string, operationId: string): boolean {
  return existsSync(asideOf(upperDir, operationId));
}

function holdOf(upperDir: string): string {
  return join(dirname(upperDir), HOLD_FILE);
}

/**
 * Idempotent.
 * @throws Internal the container's root is mounted
 * Crash: the layer is held, and perhaps lies aside with nothing in its place; `bringBackLayer` undoes all of it.
 */
export async function setLayerAside(upperDir: string, operationId: string): Promise<void> {
  const aside = asideOf(upperDir, operationId);
  await unmounted(upperDir);
  holdLayer(upperDir, operationId);
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
  if (existsSync(aside)) {
    await unmounted(upperDir);
    // It may have been let go: a reboot from here on finds it half removed.
    holdLayer(upperDir, operationId);
    rmSync(upperDir, { recursive: true, force: true });
    rmSync(`${aside}.new`, { recursive: true, force: true });
    renameSync(aside, upperDir);
  }
  letLayerGo(upperDir);
}

/**
 * The restore has succeeded. Idempotent.
 * Crash: what is left of it has another name, so that nobody takes half of it for the layer of before.
 */
export function dropLayer(upperDir: string, operationId: string): void {
  letLayerGo(upperDir);
  const aside = asideOf(upperDir, operationId);
  const gone = `${aside}.gone`;
  rmSync(gone, { recursive: true, force: true });
  if (existsSync(aside)) {
    renameSync(aside, gone);
    rmSync(gone, { recursive: true, force: true });
  }
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

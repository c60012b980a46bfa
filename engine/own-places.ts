/*
 * Directories and files of the node that a restored container has in the place of its source's (core/oci/own-mounts.ts):
 *   <stateDir>/volumes/<operation>/owner.json        the container that has them; written first
 *   <stateDir>/volumes/<operation>/<index>-<name>    one of them
 * They go with the container: at the undo of its restore, or at the first look after somebody has removed it. Nobody but root
 * can put anything above them, and a container sees what is below its own.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { chmod, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { KybernateError, messageOf } from '../core/errors.ts';
import { OPERATION_ID_PATTERN, parseOperationId } from '../core/ids.ts';
import { LABELS } from '../core/oci/annotations.ts';
import { type OwnMounts, type OwnPlace, ownMounts } from '../core/oci/own-mounts.ts';
import type { Op } from '../core/op.ts';
import { readMounts } from '../native/proc/mounts.ts';
import { namespaceInode } from '../native/proc/ns.ts';
import { listProcesses } from '../native/proc/tree.ts';
import type { Captured } from './captured.ts';
import type { ContainerId } from './container-facts.ts';
import { replaceDurably, syncPath } from './durable-file.ts';
import type { NodeDeps, NodeSettings } from './node-deps.ts';
import { listOperations, readJson } from './operation.ts';
import { ownVolumesDir } from './pod-directories.ts';

const OWNER = 'owner.json';
/** What kubelet writes for a pod is small; its container may have made more of it. */
const MAX_FILE_BYTES = 1024 * 1024;
/** A container's root in a user namespace must be able to walk there. */
const WALKABLE = 0o711;

type Settings = Pick<NodeSettings, 'stateDir'>;

function placesDir(settings: Settings, operationId: string): string {
  return join(ownVolumesDir(settings), parseOperationId(operationId));
}

/** Of any container of this node. */
export function hasOwnPlaces(settings: Settings): boolean {
  return existsSync(ownVolumesDir(settings));
}

/** The mounts of the container that the operation makes of a checkpoint. */
export function ownMountsFor(settings: Settings, operationId: string, { metadata, spec }: Captured): OwnMounts {
  return ownMounts(spec, metadata.volumes ?? [], placesDir(settings, operationId));
}

/** Idempotent: what is there stays. Crash: `removeOwnPlaces` at the undo, which the operation's record brings about. */
export async function makeOwnPlaces(
  settings: Settings,
  operationId: string,
  container: ContainerId,
  places: readonly OwnPlace[],
): Promise<void> {
  if (places.length === 0) {
    return;
  }
  const dir = placesDir(settings, operationId);
  // Volumes are for everybody in their containers, and for nobody else of the node: the sidecar may walk as far as here. Who
  // has containers in user namespaces opens it, as the preflight of such a restore says.
  mkdirSync(ownVolumesDir(settings), { recursive: true, mode: 0o700 });
  mkdirSync(dir, { recursive: true });
  await chmod(dir, WALKABLE);
  const owner = JSON.stringify({ namespace: container.namespace, id: container.id });
  // containerd's record of the container outlives a power failure, and so must this.
  replaceDurably(join(dir, OWNER), (path) => writeFileSync(path, owner, { flag: 'wx' }));
  syncPath(ownVolumesDir(settings));
  for (const place of places) {
    if (place.kind === 'directory') {
      mkdirSync(place.path, { recursive: true });
      await chmod(place.path, place.mode);
    } else if (!existsSync(place.path)) {
      // Under its name it is whole.
      const temporary = `${place.path}.tmp`;
      writeFileSync(temporary, copied(place.from) ?? place.text);
      await chmod(temporary, place.mode);
      renameSync(temporary, place.path);
    }
  }
}

/** A file of a pod that is there still. */
function copied(file: string | undefined): Uint8Array | undefined {
  const stats = file === undefined ? undefined : lstatSync(file, { throwIfNoEntry: false });
  return file === undefined || stats?.isFile() !== true || stats.size > MAX_FILE_BYTES ? undefined : readFileSync(file);
}

/** The container is gone. Idempotent. @throws Internal something of others is mounted below, which a removal would reach */
export async function removeOwnPlaces(settings: Settings, operationId: string): Promise<void> {
  const dir = placesDir(settings, operationId);
  const mounted = readMounts(process.pid).find(({ mountPoint }) => mountPoint.startsWith(`${dir}/`));
  if (mounted !== undefined) {
    throw new KybernateError(
      'Internal',
      `${mounted.mountPoint} is a mount; nothing below ${dir} was removed: unmount it`,
    );
  }
  await rm(dir, { recursive: true, force: true });
}

/**
 * Removes the places of containers that somebody has removed. What anybody has mounted stays, whatever containerd knows of:
 * it may have lost its state. One that cannot be removed is tried again at the next look.
 * @returns paths that were removed
 */
export async function sweepOwnPlaces(
  deps: Pick<NodeDeps, 'settings' | 'containerd'>,
  op: Pick<Op, 'log'>,
): Promise<readonly string[]> {
  const { settings } = deps;
  const root = ownVolumesDir(settings);
  const all = existsSync(root) ? readdirSync(root).filter((name) => OPERATION_ID_PATTERN.test(name)) : [];
  const known = new Set(all.length === 0 ? [] : await listOperations(settings));
  const removed: string[] = [];
  for (const operationId of all.filter((name) => !known.has(name))) {
    const dir = join(root, operationId);
    try {
      if (!(await isOwned(deps, operationId)) && !isMounted(operationId)) {
        await removeOwnPlaces(settings, operationId);
        removed.push(dir);
      }
    } catch (error) {
      op.log.error({ path: dir, error: messageOf(error) }, 'volumes of a container that is gone could not be removed');
    }
  }
  return removed;
}

async function isOwned(
  { settings, containerd }: Pick<NodeDeps, 'settings' | 'containerd'>,
  operationId: string,
): Promise<boolean> {
  const owner = readJson(join(placesDir(settings, operationId), OWNER)) as ContainerId | undefined;
  // Without one its operation has ended before it could make anything.
  const container = owner === undefined ? undefined : await containerd.getContainer(owner.namespace, owner.id);
  return container?.labels[LABELS.operation] === operationId;
}

/** By any process of the node. */
function isMounted(operationId: string): boolean {
  const seen = new Set<number>();
  return listProcesses().some(({ hostPid }) => {
    const inode = namespaceInode(hostPid, 'mnt');
    if (inode === undefined || seen.has(inode)) {
      return false;
    }
    seen.add(inode);
    return readMounts(hostPid).some(({ root }) => root.includes(`/volumes/${operationId}/`));
  });
}

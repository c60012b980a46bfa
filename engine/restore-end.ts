/*
 * The end of a restore: its undo, and what becomes of one whose workflow has closed without undoing it. Nothing is
 * touched that does not carry the operation's id, and processes that run are never ended by a left-over.
 */
import { existsSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError, messageOf } from '../core/errors.ts';
import { ANNOTATIONS, LABELS } from '../core/oci/annotations.ts';
import { parseSpec } from '../core/oci/spec.ts';
import type { Op } from '../core/op.ts';
import { isFinishedInDocker, keepInDocker, removeFromDocker, settleInDocker } from './docker/undo.ts';
import { putBackRaises } from './gpu/restore-steps.ts';
import { bundleUsers, hasShim, makersIn, removeDeadBundle } from './dead-bundle.ts';
import type { NodeDeps } from './node-deps.ts';
import { removeOwnPlaces } from './own-places.ts';
import { retireToken } from './operation.ts';
import { isStepUnderWay } from './operation-steps.ts';
import { clearDeadRestore, endHalfRestored } from './restore-leftovers.ts';
import { readNote, removeNote } from './restore-notes.ts';
import { forgetRestore, readRestore, type RestoreRecord } from './restore-operation.ts';
import { endTask, snapshotKeyOf, type RestoreRef } from './restore-start.ts';
import { settledRestore } from './restored-process.ts';

/** A step that is under way ends when its container is gone; the runtime, too. */
const STEP_MS = 20_000;
const POLL_MS = 50;

/**
 * The undo: task, container and snapshot, when they are this operation's; the lease and the operation's directory.
 * The token goes first, so that no further step begins. Idempotent.
 * @throws Internal the task cannot be ended, or a step or the runtime does not come to its end: call it again
 */
export async function removeRestored(deps: NodeDeps, op: Op, ref: RestoreRef): Promise<void> {
  if (ref.token !== undefined) {
    retireToken(deps.settings, ref.container, ref.token);
  }
  const record = readRestore(deps.settings, ref.operationId);
  const docker = (record ?? readNote(deps.settings, ref.operationId))?.docker;
  await endRuntime(deps, ref, record);
  const cgroupsPath = docker === undefined ? await cgroupOf(deps, ref) : `/docker/${docker.id ?? ''}`;
  await (docker === undefined
    ? removeContainer(deps, ref, record)
    : removeFromDocker(deps, ref.operationId, docker, record === undefined));
  const bundle = docker === undefined ? ownBundle(record, ref.operationId) : undefined;
  if (bundle !== undefined) {
    await removeDeadBundle(deps, ref.container, bundle);
  }
  if (record !== undefined) {
    if (record.runcRoot !== undefined) {
      const id = docker?.id ?? ref.container.id;
      await clearDeadRestore(deps.run, record.runcRoot, id);
      const ended = await endHalfRestored({ runcRoot: record.runcRoot, id, cgroupsPath });
      if (ended.length > 0) {
        op.log.warn({ operationId: ref.operationId, hostPids: ended }, 'tasks of a restore that died were ended');
      }
    }
    await putBackRaises(deps, op, record);
  }
  await removeOwnPlaces(deps.settings, ref.operationId);
  forgetRestore(deps.settings, ref.operationId);
  op.log.info({ operationId: ref.operationId, ...ref.container }, 'restored container removed');
}

/** Undefined where the container is another operation's: what is in its cgroup is not ours to end. */
async function cgroupOf(deps: NodeDeps, { container, operationId }: RestoreRef): Promise<string | undefined> {
  const record = await deps.containerd.getContainer(container.namespace, container.id);
  if (record?.labels[LABELS.operation] !== operationId) {
    return undefined;
  }
  try {
    return parseSpec(record.spec, `the specification of ${container.id}`).linux?.cgroupsPath;
  } catch {
    // No runtime has made anything of such a specification, and an undo does not end at it.
    return undefined;
  }
}

/**
 * The task, and whoever is about to make one. containerd finds a task by its container's record alone, and knows none
 * while the wrapper makes it: so the record stays until nobody is at work, and what came up meanwhile is ended.
 */
async function endRuntime(deps: NodeDeps, ref: RestoreRef, record: RestoreRecord | undefined): Promise<void> {
  const { namespace, id } = ref.container;
  const deadline = performance.now() + STEP_MS;
  for (;;) {
    const container = record?.docker === undefined ? await deps.containerd.getContainer(namespace, id) : undefined;
    const isOwn = container?.labels[LABELS.operation] === ref.operationId;
    const atWork = whoIsAtWork(ref, record, container !== undefined && !isOwn);
    if (isOwn) {
      await endTask(deps, namespace, id);
    }
    if (atWork === undefined) {
      return;
    }
    if (performance.now() > deadline) {
      throw new KybernateError(
        'Internal',
        `restore ${ref.operationId} of ${namespace}/${id} cannot be removed yet: ${atWork} is still at work`,
      );
    }
    endWrapper(record);
    await sleep(POLL_MS);
  }
}

/** @param isTaken another operation, or nobody's, has a container of this id: a shim of that id is not ours */
function whoIsAtWork(ref: RestoreRef, record: RestoreRecord | undefined, isTaken: boolean): string | undefined {
  if (isStepUnderWay(ref.operationId)) {
    return 'a step of it';
  }
  if (record?.state === 'registered' && record.docker === undefined && !isTaken && hasShim(ref.container)) {
    // containerd is about to let it call the wrapper: without the container's record nobody would find its task.
    return 'its shim';
  }
  const bundle = record?.state === 'prepared' ? ownBundle(record, ref.operationId) : undefined;
  return bundle !== undefined && bundleUsers(bundle).length > 0 ? `its runtime (${bundle})` : undefined;
}

/** A bundle is named after its container, and another operation may have made one of this id since. */
function ownBundle(record: RestoreRecord | undefined, operationId: string): string | undefined {
  const bundle = record?.bundle;
  if (bundle === undefined || !existsSync(bundle)) {
    return undefined;
  }
  try {
    const spec = parseSpec(readFileSync(join(bundle, 'config.json'), 'utf8'), bundle);
    return (spec.annotations?.[ANNOTATIONS.operation] ?? operationId) === operationId ? bundle : undefined;
  } catch {
    // Not written yet, or just being removed.
    return bundle;
  }
}

/** SIGTERM: the wrapper ends its runc, takes back what it has done and fails. */
function endWrapper(record: RestoreRecord | undefined): void {
  for (const hostPid of record?.bundle === undefined ? [] : makersIn(record.bundle)) {
    try {
      process.kill(hostPid, 'SIGTERM');
    } catch {
      // ESRCH: it has ended by itself.
    }
  }
}

async function removeContainer(deps: NodeDeps, ref: RestoreRef, record: RestoreRecord | undefined): Promise<void> {
  const { namespace, id } = ref.container;
  const container = await deps.containerd.getContainer(namespace, id);
  const isOwn = container?.labels[LABELS.operation] === ref.operationId;
  if (isOwn) {
    await deps.containerd.deleteContainer(namespace, id);
  }
  const noted = record?.snapshotter ?? readNote(deps.settings, ref.operationId)?.snapshotter;
  const snapshotter = isOwn ? container.snapshotter : noted;
  if (snapshotter !== undefined && snapshotter !== '') {
    await deps.containerd.removeSnapshot(namespace, snapshotter, snapshotKeyOf(ref.operationId));
  }
}

/** Its processes run: from here on they are nobody's left-over, also after a reboot. Fails never. */
export function settleRestored({ settings }: NodeDeps, op: Op, { operationId, docker }: RestoreRecord): void {
  try {
    if (docker !== undefined) {
      settleInDocker(settings, docker);
    }
    // The files of before of a source lie aside still, and the note leads to them.
    if (docker?.upperDir === undefined) {
      removeNote(settings, operationId);
    }
  } catch (error) {
    // The workload must not end for it, and the step that started it does the same again.
    op.log.error({ operationId, container: docker?.name, error: messageOf(error) }, 'its restore could not be settled');
  }
}

/** The restore is over and its container stays: gives the checkpoint free. Idempotent. */
export async function releaseRestoreLease(deps: NodeDeps, _op: Op, ref: RestoreRef): Promise<void> {
  forgetRestore(deps.settings, ref.operationId);
  return Promise.resolve();
}

/**
 * Ends a restore or fetch whose workflow is closed and has not ended it: terminated, reset, or its undo could not reach
 * the node. Before its processes run it is undone. Where they run it is finished, since nobody must lose them to a
 * workflow: containerd is told, the lease goes, the container stays.
 * @returns what was done
 */
export async function endRestore(deps: NodeDeps, op: Op, operationId: string): Promise<'removed' | 'kept'> {
  const { settings } = deps;
  const known = readRestore(settings, operationId) ?? readNote(settings, operationId);
  if (known === undefined) {
    // A fetch: the copy that it had not finished goes with it; of a restore of processes what is half-made.
    await settledRestore(deps, operationId);
    await rm(join(settings.stateDir, 'checkpoints', `.fetch-${operationId}`), { recursive: true, force: true });
    forgetRestore(settings, operationId);
    return 'removed';
  }
  const { container, token } = known;
  const ref: RestoreRef = { operationId, container, ...(token === undefined ? {} : { token }) };
  if (!(await processesRun(deps, op, ref))) {
    await removeRestored(deps, op, ref);
    return 'removed';
  }
  const record = readRestore(settings, operationId);
  if (record !== undefined) {
    await putBackRaises(deps, op, record);
  }
  if (known.docker !== undefined) {
    keepInDocker(settings, operationId, known.docker);
  }
  forgetRestore(settings, operationId);
  op.log.warn({ operationId, ...container }, 'the workflow of a restore is closed; its processes run and stay');
  return 'kept';
}

/** A task is there only when the runtime has restored it; `created` is containerd's word for one that nobody started. */
async function processesRun(deps: NodeDeps, op: Op, ref: RestoreRef): Promise<boolean> {
  const { namespace, id } = ref.container;
  const record = readRestore(deps.settings, ref.operationId);
  const noted = record === undefined ? readNote(deps.settings, ref.operationId)?.docker : undefined;
  if (noted !== undefined) {
    return isFinishedInDocker(noted);
  }
  const { state, docker, cold } = record ?? {};
  if (docker !== undefined) {
    const found = await deps.docker?.container(docker.id ?? docker.name);
    const isOurs = state === 'restored' || state === 'cold-started' || (cold === true && docker.started === true);
    return found?.State.Running === true && isOurs;
  }
  const container = await deps.containerd.getContainer(namespace, id);
  if (container?.labels[LABELS.operation] !== ref.operationId) {
    return false;
  }
  const task = await deps.containerd.getTask(namespace, id);
  if (task === undefined || task.status === 'stopped' || task.status === 'unknown') {
    // What ran once and has ended by itself is its owner's.
    return state === 'restored';
  }
  if (task.status === 'created') {
    if (state === 'cold-started') {
      return false;
    }
    await deps.containerd.startTask(namespace, id);
    op.log.info({ operationId: ref.operationId, ...ref.container }, 'a restored task was started');
  }
  return true;
}

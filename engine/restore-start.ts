/*
 * The second half of a restore: the task, in which the wrapper restores. restore-end.ts undoes it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RestoreContext, StartRestoredResult } from '../core/contract/restore.ts';
import { KybernateError, isKybernateError, messageOf } from '../core/errors.ts';
import { LABELS } from '../core/oci/annotations.ts';
import type { Op } from '../core/op.ts';
import type { ContainerRecord, TaskRecord } from '../native/containerd/containerd.ts';
import { readProcess } from '../native/proc/tree.ts';
import { reservedByOthers } from './gpu/restore-steps.ts';
import { shortOfVram } from './gpu/restore-target.ts';
import { bundleInTheWay, removeDeadBundle } from './dead-bundle.ts';
import type { NodeDeps } from './node-deps.ts';
import { checkToken } from './operation.ts';
import { asStep } from './operation-steps.ts';
import { type RestoreRecord, readRestore, requireRestore, writeRestore } from './restore-operation.ts';
import { removeNote } from './restore-notes.ts';
import { taskStdio } from './restore-stdio.ts';

const GONE_MS = 20_000;
/** The wrapper ends a late runc by itself and cleans up; only when that hangs too are we the ones who give up. */
export const WRAPPER_GRACE_MS = 30_000;
const BEAT_MS = 1000;
const SIGKILL = 9;
/** How long a GPU that ran out of memory is waited for, before the second try. */
const VRAM_WAIT_MS = 30_000;
const VRAM_POLL_MS = 500;

export interface RestoreRef {
  readonly operationId: string;
  readonly container: { readonly namespace: string; readonly id: string };
  /** what late steps of the operation would come with; absent: they are not refused */
  readonly token?: number;
}

/**
 * Creates the task, in which the wrapper restores, and verifies that its init process runs. Repeated after a success it
 * returns the same; repeated after a half-made task it starts over.
 * A GPU that runs out of memory costs the processes their state: they are ended, and restored once more from the same
 * images when there is room, within the same budget.
 * @throws RestoreFailed with CRIU's last error lines, GpuOutOfMemory; nothing of the task is left, the container is
 */
export async function startRestored(deps: NodeDeps, op: Op, input: StartRestored): Promise<StartRestoredResult> {
  return asStep(input.operationId, () => startOnce(deps, op, input));
}

interface StartRestored {
  readonly context: RestoreContext;
  readonly operationId: string;
  readonly restoreBudgetMs: number;
}

async function startOnce(deps: NodeDeps, op: Op, input: StartRestored): Promise<StartRestoredResult> {
  const { operationId, context } = input;
  const { namespace, id } = context.container;
  checkToken(deps.settings, context.container, context.token);
  const record = requireRestore(deps.settings, operationId);
  const container = await ownContainer(deps, { operationId, container: context.container });
  if (container === undefined) {
    throw new KybernateError('Internal', `container ${namespace}/${id} of restore ${operationId} is gone`);
  }
  const task = await deps.containerd.getTask(namespace, id);
  if (task !== undefined && isDone(record) && (task.status === 'running' || task.status === 'created')) {
    return finishStart(deps, record, task);
  }
  await endTask(deps, namespace, id);
  const begun = performance.now();
  const begin = (budgetMs: number, triedAgain: boolean): Promise<TaskRecord> => {
    checkToken(deps.settings, context.container, context.token);
    return makeTask(deps, op, container, { ...record, triedAgain, restoreBudgetMs: budgetMs });
  };
  let created: TaskRecord;
  try {
    created = await begin(input.restoreBudgetMs, false);
  } catch (error) {
    if (!isKybernateError(error, 'GpuOutOfMemory')) {
      throw error;
    }
    await endTask(deps, namespace, id);
    const isFree = await vramComesFree(deps, op, record, input.restoreBudgetMs - (performance.now() - begun));
    const leftMs = Math.round(input.restoreBudgetMs - (performance.now() - begun));
    if ((!isFree && record.onFailure === 'fail') || leftMs <= 0) {
      throw error;
    }
    op.log.warn({ operationId, container: id, error: messageOf(error) }, 'restored once more from the same images');
    created = await begin(leftMs, true);
  }
  const ended = requireRestore(deps.settings, operationId);
  // No wrapper reports a container that it was not asked to restore.
  if (ended.cold !== true) {
    return finishStart(deps, ended, created);
  }
  const started = writeRestore(deps.settings, { ...ended, state: 'cold-started' });
  removeNote(deps.settings, operationId);
  return finishStart(deps, started, created);
}

/** @returns whether the GPUs have room for what the restore brings back */
async function vramComesFree(deps: NodeDeps, op: Op, record: RestoreRecord, budgetMs: number): Promise<boolean> {
  const { driver } = deps.gpu();
  if (driver === undefined || record.gpu === undefined) {
    return false;
  }
  const until = performance.now() + Math.min(VRAM_WAIT_MS, budgetMs);
  while (performance.now() < until) {
    if (shortOfVram(driver, record.gpu.vram, await reservedByOthers(deps, driver, record.operationId)).length === 0) {
      return true;
    }
    op.progress({ phase: 'restoring' });
    await sleep(VRAM_POLL_MS, undefined, { signal: op.signal });
  }
  return false;
}

/** One try. @throws as `startRestored` */
async function makeTask(
  deps: NodeDeps,
  op: Op,
  container: ContainerRecord,
  record: RestoreRecord,
): Promise<TaskRecord> {
  const { namespace, id } = record.container;
  const begun = writeRestore(deps.settings, { ...record, state: 'registered' });
  const rootfs =
    container.snapshotKey === ''
      ? []
      : await deps.containerd.snapshotMounts(namespace, container.snapshotter, container.snapshotKey);
  const beat = setInterval(() => op.progress({ phase: 'restoring' }), BEAT_MS);
  const create = (): Promise<unknown> =>
    withinBudget(
      deps.containerd.createTask(namespace, { id, rootfs, ...taskStdio(begun) }),
      record.restoreBudgetMs + WRAPPER_GRACE_MS,
    );
  try {
    await create().catch(async (error: unknown) => {
      const bundle = bundleInTheWay(error, record.container);
      if (bundle === undefined || !(await removeDeadBundle(deps, record.container, bundle))) {
        throw error;
      }
      op.log.warn({ operationId: record.operationId, bundle }, 'a bundle that a dead containerd left was removed');
      return create();
    });
  } catch (error) {
    throw startError(deps, record, error);
  } finally {
    clearInterval(beat);
  }
  op.signal.throwIfAborted();
  const created = await deps.containerd.getTask(namespace, id);
  if (created === undefined) {
    throw new KybernateError('RestoreFailed', `the task of ${namespace}/${id} ended at once`);
  }
  return created;
}

async function finishStart(deps: NodeDeps, record: RestoreRecord, task: TaskRecord): Promise<StartRestoredResult> {
  const { namespace, id } = record.container;
  // `runc start` of a restored container does nothing, but containerd waits for the call before it reports the task as
  // running; a cold start begins here.
  const initHostPid = task.status === 'created' ? (await deps.containerd.startTask(namespace, id)).pid : task.pid;
  const state = readProcess(initHostPid)?.state ?? 'gone';
  if (state === 'gone' || state === 'Z' || state === 'X') {
    throw new KybernateError(
      'RestoreFailed',
      `process ${initHostPid} of ${namespace}/${id} ended right after its restore (state ${state})`,
    );
  }
  return {
    initHostPid,
    restoreMs: record.restoreMs ?? 0,
    how: record.state === 'cold-started' ? 'cold-started' : 'restored',
    ...(record.state !== 'restored' || record.gpuFacts === undefined ? {} : { gpu: record.gpuFacts }),
    ...(record.warnings === undefined ? {} : { warnings: record.warnings }),
  };
}

export function startError(deps: NodeDeps, before: RestoreRecord, error: unknown): KybernateError {
  const record = readRestore(deps.settings, before.operationId);
  const { namespace, id } = before.container;
  const lines = record?.state === 'failed' ? (record.errors ?? []) : [];
  const text = lines.length > 0 ? lines.join('; ') : messageOf(error);
  const logs = record?.savedLogs;
  return new KybernateError(
    record?.errorType ?? 'RestoreFailed',
    `container ${namespace}/${id} was not restored: ${text}${logs === undefined ? '' : `; logs: ${logs}`}`,
    { details: { errors: lines, ...(logs === undefined ? {} : { logs }) }, cause: error },
  );
}

export function isDone(record: RestoreRecord): boolean {
  return record.state === 'restored' || record.state === 'cold-started';
}

/** @throws InvalidInput the id is taken by a container that this operation did not make */
export async function ownContainer(deps: NodeDeps, ref: RestoreRef): Promise<ContainerRecord | undefined> {
  const { namespace, id } = ref.container;
  const existing = await deps.containerd.getContainer(namespace, id);
  if (existing !== undefined && existing.labels[LABELS.operation] !== ref.operationId) {
    throw new KybernateError(
      'InvalidInput',
      `container.id: ${namespace}/${id} exists already on ${deps.settings.node}; nothing was touched`,
    );
  }
  return existing;
}

/** Idempotent. @throws Internal it survives SIGKILL */
export async function endTask(deps: NodeDeps, namespace: string, id: string): Promise<void> {
  const deadline = performance.now() + GONE_MS;
  for (;;) {
    const task = await deps.containerd.getTask(namespace, id);
    if (task === undefined) {
      return;
    }
    if (task.status === 'stopped') {
      await deps.containerd.deleteTask(namespace, id);
      return;
    }
    if (performance.now() > deadline) {
      throw new KybernateError('Internal', `the task of ${namespace}/${id} is still ${task.status} after SIGKILL`);
    }
    try {
      await deps.containerd.killTask(namespace, id, SIGKILL, true);
    } catch {
      // It ended between the two calls; if it did not, the deadline tells.
    }
    await sleep(50);
  }
}

/** Named by the operation: nobody else makes or removes it. */
export function snapshotKeyOf(operationId: string): string {
  return `kybernate-${operationId}`;
}

export async function withinBudget<Result>(work: Promise<Result>, ms: number): Promise<Result> {
  const stop = new AbortController();
  const late = sleep(ms, undefined, { signal: stop.signal }).then(() => {
    throw new KybernateError('RestoreFailed', `containerd did not make the task within ${ms} ms`);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    stop.abort();
    late.catch(() => undefined);
  }
}

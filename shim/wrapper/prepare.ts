/*
 * The wrapper's first call to the agent, and its patience. A pod's container is made within kubelet's own time limit (two
 * minutes), so a checkpoint that is still on its way is waited for 90 s; then the attempt fails with how far it has come,
 * and the next one joins it. Other callers wait as long as it takes.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { PrepareRestoreCall, PrepareRestoreResponse } from '../../core/contract/restore.ts';
import { type ErrorType, KybernateError, isKybernateError, messageOf } from '../../core/errors.ts';
import { ANNOTATIONS } from '../../core/oci/annotations.ts';
import { hasStarted, mayHaveStarted, msSinceFirstAttempt, reserveStartNote } from '../../engine/pod-starts.ts';
import { type Job, type WrapperDeps, containerOf, nameOf } from './job.ts';

export const WAIT_MS = 90_000;
const ASK_AGAIN_MS = 1000;
/** What passes by itself: an agent that is being replaced, a store or a GPU that others use. */
const PASSING: readonly ErrorType[] = [
  'NodeUnavailable',
  'StorageUnavailable',
  'GpuBusy',
  'GpuOutOfMemory',
  'RestorePending',
];

/** Marks the error of a container that is none to restore after all: it starts as any other. */
export const AS_ANY_OTHER = 'startsAsAnyOther';

/**
 * @throws RestorePending it did not come in time; RestoreRefused (`AS_ANY_OTHER`) it is no first start; DiskFull its start could
 *   not be noted; what the agent says. RestorePending also when `deps.signal` ends the wait, which it does at once
 */
export async function prepare(deps: WrapperDeps, job: Job): Promise<PrepareRestoreResponse> {
  const { wish, create, bundle } = job;
  if (wish.pod !== undefined) {
    job.waitedMs = msSinceFirstAttempt(deps.runDir, wish.pod);
    refuseLate(job);
  }
  const call = {
    restoreFrom: wish.restoreFrom,
    origin: wish.origin,
    ...(wish.operationId === undefined ? {} : { operationId: wish.operationId }),
    container: containerOf(create),
    bundle,
    runcRoot: create.root,
    tcp: wish.tcp,
    onFailure: wish.onFailure,
    unverified: wish.unverified,
    ...(wish.pod === undefined ? {} : { pod: wish.pod }),
  };
  try {
    return await askUntil(deps, job, call, performance.now() + patienceMs(job));
  } catch (error) {
    if (deps.signal.aborted) {
      throw endedWhileWaiting(deps, job);
    }
    throw error;
  }
}

async function askUntil(
  deps: WrapperDeps,
  job: Job,
  call: PrepareRestoreCall,
  until: number,
): Promise<PrepareRestoreResponse> {
  const { wish } = job;
  for (;;) {
    const waitMs = Math.max(0, Math.round(until - performance.now()));
    try {
      refuseLaterStart(deps, job);
      reserveStartNote(deps.runDir, wish);
      return await deps.agent.prepareRestore(wish.pod === undefined ? call : { ...call, waitMs }, deps.signal);
    } catch (error) {
      const passes = isKybernateError(error) && PASSING.includes(error.type) && wish.onFailure === 'wait';
      if (!passes || performance.now() + ASK_AGAIN_MS >= until || deps.signal.aborted) {
        throw error;
      }
    }
    await sleep(ASK_AGAIN_MS, undefined, { signal: deps.signal });
  }
}

/** Whoever makes the container has given up. It is no failure of the restore: another attempt may come. */
function endedWhileWaiting({ signal }: WrapperDeps, { begun, wish }: Job): KybernateError {
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  return new KybernateError(
    'RestorePending',
    `${messageOf(signal.reason)} after ${seconds} s of waiting for ${wish.restoreFrom}; nothing was started, what is on ` +
      'its way to the node is still being brought, and the next attempt joins it',
  );
}

/**
 * Asked before each call to the agent, which may have come up since the attempt began, with the notes of before a reboot.
 * @throws NodeUnavailable nobody knows yet; RestoreRefused it has started before
 */
function refuseLaterStart({ runDir }: WrapperDeps, job: Job): void {
  if (hasStarted(runDir, job.wish)) {
    throw new KybernateError('RestoreRefused', `${nameOf(job)} has had its first start`, {
      details: { [AS_ANY_OTHER]: true },
    });
  }
  if (mayHaveStarted(runDir, job.wish)) {
    throw new KybernateError(
      'NodeUnavailable',
      'no node worker has run since the node was started: nobody knows whether this is the first start of ' +
        `${nameOf(job)}, and a later one must not rewind it`,
    );
  }
}

/** How long this attempt may wait; the container's creation has begun before. */
function patienceMs({ wish, waitedMs, begun }: Job): number {
  const left = wish.timeoutMs === undefined ? WAIT_MS : wish.timeoutMs - (waitedMs ?? 0);
  return Math.max(0, Math.min(WAIT_MS, left) - (performance.now() - begun));
}

/** @throws RestorePending the time that the pod gives it was over before this attempt */
function refuseLate({ wish, waitedMs = 0 }: Job): void {
  const { timeoutMs } = wish;
  if (timeoutMs !== undefined && waitedMs > timeoutMs && wish.onFailure !== 'cold-start') {
    throw new KybernateError(
      'RestorePending',
      `it was not restored within ${Math.round(timeoutMs / 1000)} s of its first attempt ` +
        `(${ANNOTATIONS.restoreTimeout}), ${Math.round(waitedMs / 1000)} s ago; delete the pod to try again`,
    );
  }
}

/** May a container whose checkpoint has not come in time start without it now? Not before its pod's own time is over. */
export function isTooEarlyForCold({ wish, waitedMs = 0, begun }: Job, error: unknown): boolean {
  return (
    isKybernateError(error, 'RestorePending') &&
    wish.timeoutMs !== undefined &&
    waitedMs + (performance.now() - begun) < wish.timeoutMs
  );
}

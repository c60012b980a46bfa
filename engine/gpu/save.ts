/*
 * Moves the VRAM of a container's GPU processes into their host memory: all are locked, then all are saved, each step in
 * parallel. Ranks of one job wait for a locked peer, so a lock that cannot be had for all is given back by all. Whatever
 * fails, the others are brought back before the error is reported.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isKybernateError, KybernateError, messageOf } from '../../core/errors.ts';
import { CUDA } from '../../native/cuda/codes.ts';
import { isCudaError } from '../../native/cuda/error.ts';
import type { GpuMemoryUse } from '../../native/cuda/gpu-driver.ts';
import { bringBackGpu } from './bring-back.ts';
import {
  assertThawed,
  describeOutcome,
  gpuStates,
  isStopped,
  LOCK_GRACE_MS,
  moveMs,
  outcomeText,
  transition,
  type GpuTarget,
  type Outcome,
} from './driver-call.ts';

/** First try of a lock on several processes; every further one takes twice as long. */
const FIRST_TRY_MS = 500;
const BACK_OFF_MS = 20;
const LONGEST_BACK_OFF_MS = 500;

export interface SaveOptions {
  /** over all tries */
  readonly lockTimeoutMs: number;
  /** heeded between calls: one that has begun cannot be interrupted */
  readonly signal: AbortSignal;
  readonly onPart?: (part: 'gpu-lock' | 'gpu-save') => void;
  /** it failed, and what it has locked or saved is brought back */
  readonly onBackOut?: () => void;
  /** all are locked, none is saved */
  readonly onLocked?: () => void;
}

/**
 * Locks all, then saves all. Processes that an earlier attempt has locked or saved are left as they are.
 *
 * @throws the reason of the signal; GpuBusy (running kernels), GpuUnsupported (managed memory), ContainerNotRunning,
 * DumpFailed: every process that has not ended runs again, as the driver says; Poisoned: one does not
 * Crash: processes stay locked or saved; `bringBackGpu` finds each by its state.
 */
export async function saveGpu(target: GpuTarget, options: SaveOptions): Promise<void> {
  const { signal } = options;
  try {
    options.onPart?.('gpu-lock');
    await lockAll(target, options);
    signal.throwIfAborted();
    options.onLocked?.();
    options.onPart?.('gpu-save');
    await checkpointAll(target);
    signal.throwIfAborted();
  } catch (error) {
    options.onBackOut?.();
    throw await backOut(target, signal.aborted ? signal.reason : error);
  }
}

/** @returns the error to report */
async function backOut(target: GpuTarget, error: unknown): Promise<unknown> {
  try {
    await bringBackGpu(target);
    return error;
  } catch (undone) {
    const { message, details } = isKybernateError(undone) ? undone : { message: messageOf(undone), details: {} };
    return new KybernateError('Poisoned', `${message} (after: ${messageOf(error)})`, { details, cause: error });
  }
}

async function lockAll(target: GpuTarget, options: SaveOptions): Promise<void> {
  const until = performance.now() + options.lockTimeoutMs;
  const alone = target.processes.length === 1;
  for (let attempt = 0; ; attempt += 1) {
    options.signal.throwIfAborted();
    assertThawed(target);
    refuseStopped(target);
    // 0 would wait for ever.
    const leftMs = Math.max(1, Math.round(until - performance.now()));
    const timeoutMs = alone ? leftMs : Math.min(leftMs, FIRST_TRY_MS * 2 ** attempt);
    const failed = (await lockEach(target, timeoutMs)).filter((outcome) => !isHeld(outcome));
    if (failed.length === 0) {
      return;
    }
    if (!failed.every(({ error }) => isCudaError(error, CUDA.NOT_READY))) {
      throw saveError(target, 'locked', failed);
    }
    await bringBackGpu(target);
    if (performance.now() >= until) {
      throw busy(target, options.lockTimeoutMs, failed);
    }
    await sleep(Math.min(BACK_OFF_MS * 2 ** attempt, LONGEST_BACK_OFF_MS, Math.max(0, until - performance.now())));
  }
}

/** Before the first call only: on the way back one that was stopped meanwhile must not keep the others waiting. */
function refuseStopped({ processes, container }: GpuTarget): void {
  const stopped = processes.filter(({ hostPid }) => isStopped(hostPid));
  if (stopped.length > 0) {
    const who = stopped.map(({ hostPid, command }) => `${hostPid} (${command})`).join(', ');
    throw new KybernateError(
      'DumpFailed',
      `process ${who} of container ${container} is stopped by a signal, and calls of the driver on a process that ` +
        'stands still do not return: it was not locked; let it run on (SIGCONT), and try again',
      { details: { hostPids: stopped.map(({ hostPid }) => hostPid) } },
    );
  }
}

async function lockEach(target: GpuTarget, timeoutMs: number): Promise<Outcome[]> {
  const states = await gpuStates(target);
  return Promise.all(
    states.map((seen) =>
      transition(target, seen, 'lock', () =>
        target.driver.lock(seen.process.hostPid, timeoutMs, timeoutMs + LOCK_GRACE_MS),
      ),
    ),
  );
}

/** One that is no CUDA process any more is about to end, or runs another program: the plan is out of date. */
function isHeld({ state }: Outcome): boolean {
  return state === 'locked' || state === 'checkpointed';
}

async function checkpointAll(target: GpuTarget): Promise<void> {
  assertThawed(target);
  const outcomes = await Promise.all(
    (await gpuStates(target)).map((seen) => {
      const deadlineMs = moveMs(seen.process);
      return transition(
        target,
        seen,
        'checkpoint',
        () => target.driver.checkpoint(seen.process.hostPid, deadlineMs),
        deadlineMs,
      );
    }),
  );
  const failed = outcomes.filter(({ state }) => state !== 'checkpointed');
  if (failed.length > 0) {
    throw saveError(target, 'saved', failed);
  }
}

/** VRAM that the processes hold now; NVML takes 10 to 20 ms, and cannot always tell: then the plan's figures count. */
export function memoryOf(target: GpuTarget): readonly GpuMemoryUse[] {
  const pids = new Set(target.processes.map(({ hostPid }) => hostPid));
  try {
    return target.driver.memoryInUse().filter(({ hostPid }) => pids.has(hostPid));
  } catch (error) {
    target.log.warn({ error: messageOf(error) }, 'the VRAM in use cannot be read');
    return [];
  }
}

function busy(target: GpuTarget, lockTimeoutMs: number, failed: readonly Outcome[]): KybernateError {
  const who = failed.map(({ process }) => `${process.hostPid} (${process.command})`).join(', ');
  return new KybernateError(
    'GpuBusy',
    `the GPU work of container ${target.container} did not pause within ${lockTimeoutMs} ms: a kernel of process ${who} ` +
      'runs longer; nothing was saved, every process is unlocked and runs; try again, or raise gpu.lockTimeoutMs',
    { details: { lockTimeoutMs, processes: failed.map(describeOutcome) } },
  );
}

function saveError(target: GpuTarget, act: 'locked' | 'saved', failed: readonly Outcome[]): KybernateError {
  const what = failed.map(outcomeText).join('; ');
  const details = { processes: failed.map(describeOutcome) };
  const gone = failed.filter(({ state }) => state === 'gone');
  if (gone.length === target.processes.length) {
    return new KybernateError(
      'ContainerNotRunning',
      `every GPU process of container ${target.container} ended while its GPU state was ${act}: ${what}`,
      { details },
    );
  }
  // Of a checkpoint it means managed memory. Seen with driver 580.
  if (act === 'saved' && failed.some(({ error }) => isCudaError(error, CUDA.NOT_SUPPORTED))) {
    return new KybernateError(
      'GpuUnsupported',
      `the driver cannot save the GPU state of container ${target.container} (801: managed memory?): ${what}; nothing ` +
        'was captured, every process is unlocked and runs',
      { details },
    );
  }
  const hint = gone.length > 0 ? ' (out of memory? see the kernel log)' : '';
  return new KybernateError(
    'DumpFailed',
    `the GPU state of container ${target.container} could not be ${act}: ${what}${hint}; the other processes are ` +
      'unlocked and run',
    { details },
  );
}

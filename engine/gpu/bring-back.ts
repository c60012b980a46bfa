/*
 * The way back: VRAM of saved processes goes to the devices again, then all are unlocked, and every one is read back as
 * running. A restore that runs out of VRAM poisons its process for good (the driver answers 304 ever after), so free
 * VRAM is looked at first: after the save a neighbour may have taken it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { CudaError } from '../../native/cuda/error.ts';
import type { GpuMemoryUse } from '../../native/cuda/gpu-driver.ts';
import {
  assertThawed,
  describeOutcome,
  gpuStates,
  megabytes,
  moveMs,
  outcomeText,
  SETTLE_MS,
  STATE_MS,
  transition,
  UNLOCK_MS,
  type GpuTarget,
  type Outcome,
} from './driver-call.ts';
import type { GpuProcess } from './gpu-plan.ts';

/** How long a neighbour is given to leave; the runner tries again later. */
const MEMORY_WAIT_MS = 5000;
const POLL_MS = 100;

export interface BringBackOptions {
  /** VRAM that they held when they were locked; default: what the plan says */
  readonly memory?: readonly GpuMemoryUse[];
  /** how long to wait for VRAM that others hold */
  readonly memoryWaitMs?: number;
  readonly onPart?: (part: 'gpu-restore' | 'gpu-unlock') => void;
}

/**
 * What `bringBackGpu` may take while the driver works: whoever waits longer waits for one that hangs. A restore that has not
 * ended by its deadline is given the same time again to show its effect.
 */
export function bringBackMs(processes: readonly GpuProcess[]): number {
  const longestMoveMs = Math.max(0, ...processes.map(moveMs));
  return MEMORY_WAIT_MS + 2 * longestMoveMs + processes.length * (UNLOCK_MS + SETTLE_MS) + SETTLE_MS + STATE_MS;
}

/**
 * Unlocks all that are locked, last first, and reads back that every process runs or has ended.
 * @returns those that do not
 */
async function unlockAll(target: GpuTarget): Promise<Outcome[]> {
  assertThawed(target);
  const errors = new Map<number, unknown>();
  for (const seen of (await gpuStates(target)).reverse()) {
    const { hostPid } = seen.process;
    const { error } = await transition(target, seen, 'unlock', () => target.driver.unlock(hostPid, UNLOCK_MS));
    if (error !== undefined) {
      errors.set(hostPid, error);
    }
  }
  return (await stillHeld(target)).map((outcome) => {
    const error = errors.get(outcome.process.hostPid);
    return error === undefined ? outcome : { ...outcome, error };
  });
}

/**
 * In place, whatever point a save had reached: restores all, unlocks all, verifies. Where one cannot be restored, the
 * others are unlocked all the same.
 *
 * @throws GpuOutOfMemory nothing was done, every saved process waits: try again when the memory is free. Poisoned: a process
 * is not back; `details.final` true when the driver has refused it for good.
 * Crash: call it again.
 */
export async function bringBackGpu(target: GpuTarget, options: BringBackOptions = {}): Promise<void> {
  const failed = await restoreEach(target, options);
  options.onPart?.('gpu-unlock');
  const others = target.processes.filter((process) => !failed.some((one) => one.process === process));
  const held = [...failed, ...(await unlockAll({ ...target, processes: others }))];
  if (held.length > 0) {
    throw poisoned(target, held);
  }
}

/**
 * Processes that neither run nor have ended, in the driver's words, and those that a late call may still lock; empty when
 * all is well.
 */
export async function stillHeld(target: GpuTarget, forMs = target.settleMs ?? SETTLE_MS): Promise<Outcome[]> {
  const until = performance.now() + forMs;
  for (;;) {
    const held = (await gpuStates(target, STATE_MS)).flatMap((seen) => heldIn(target, seen));
    if (held.length === 0 || performance.now() >= until) {
      return held;
    }
    await sleep(POLL_MS);
  }
}

/** @returns the outcome itself, or nothing when the process is let go */
function heldIn({ driver }: GpuTarget, seen: Outcome): readonly Outcome[] {
  if (seen.state === 'running' && driver.lockPending(seen.process.hostPid)) {
    return [{ ...seen, error: new Error('a lock that was given up has not come back, and may still take hold') }];
  }
  return ['running', 'none', 'gone'].includes(seen.state) ? [] : [seen];
}

/** @returns those that are not back */
async function restoreEach(target: GpuTarget, options: BringBackOptions): Promise<Outcome[]> {
  assertThawed(target);
  const seen = await gpuStates(target);
  if (!seen.some(({ state }) => state === 'checkpointed')) {
    return seen.filter(({ state }) => state === 'failed' || state === 'unknown');
  }
  options.onPart?.('gpu-restore');
  await waitForMemory(target, seen, options);
  const outcomes = await Promise.all(
    [...seen].reverse().map((one) => {
      const deadlineMs = moveMs(one.process);
      return transition(
        target,
        one,
        'restore',
        () => target.driver.restore(one.process.hostPid, [], deadlineMs),
        deadlineMs,
      );
    }),
  );
  return outcomes.filter(({ state }) => !['locked', 'running', 'none', 'gone'].includes(state));
}

/** @throws GpuOutOfMemory when it is not free in time; no process was touched */
async function waitForMemory(target: GpuTarget, seen: readonly Outcome[], options: BringBackOptions): Promise<void> {
  const needed = neededBytes(target, seen, options);
  const until = performance.now() + (options.memoryWaitMs ?? MEMORY_WAIT_MS);
  for (;;) {
    const short = tooLittle(target, needed);
    if (short.length === 0) {
      return;
    }
    if (performance.now() >= until) {
      const what = short.map(
        ({ uuid, freeBytes, neededBytes: bytes, users }) =>
          `${uuid} has ${megabytes(freeBytes)} MiB free and ${megabytes(bytes)} MiB are needed` +
          (users.length === 0 ? '' : ` (in use by pid ${users.join(', ')})`),
      );
      throw new KybernateError(
        'GpuOutOfMemory',
        `the GPU state of container ${target.container} cannot be restored yet: ${what.join('; ')}; it is safe in host ` +
          'memory and its processes wait; free memory of that GPU',
        { details: { lost: false, devices: short } },
      );
    }
    await sleep(POLL_MS);
  }
}

/** UUID of the device → VRAM of the processes that are still to be restored. */
function neededBytes(target: GpuTarget, seen: readonly Outcome[], options: BringBackOptions): Map<string, number> {
  const needed = new Map<string, number>();
  function add(uuid: string, bytes: number): void {
    needed.set(uuid, (needed.get(uuid) ?? 0) + bytes);
  }
  for (const { process, state } of seen) {
    const measured = options.memory?.filter(({ hostPid }) => hostPid === process.hostPid) ?? [];
    if (state !== 'checkpointed') {
      continue;
    }
    if (measured.length > 0) {
      measured.forEach(({ uuid, usedBytes }) => add(uuid, usedBytes));
    } else {
      process.devices.forEach((uuid) => add(uuid, Math.floor(process.vramBytes / process.devices.length)));
    }
  }
  return needed;
}

interface TooLittle {
  readonly uuid: string;
  readonly freeBytes: number;
  readonly neededBytes: number;
  /** host pids that hold memory of the device */
  readonly users: readonly number[];
}

/** A device that NVML does not know is left to the driver's own answer. */
function tooLittle({ driver, log }: GpuTarget, needed: ReadonlyMap<string, number>): TooLittle[] {
  try {
    return driver.devices().flatMap(({ uuid, memoryFreeBytes }) => {
      const bytes = needed.get(uuid) ?? 0;
      return memoryFreeBytes >= bytes
        ? []
        : [{ uuid, freeBytes: memoryFreeBytes, neededBytes: bytes, users: usersOf(driver.memoryInUse(), uuid) }];
    });
  } catch (error) {
    log.warn({ error: messageOf(error) }, 'free VRAM cannot be read');
    return [];
  }
}

function usersOf(memory: readonly GpuMemoryUse[], uuid: string): number[] {
  return memory.filter((use) => use.uuid === uuid).map(({ hostPid }) => hostPid);
}

function poisoned(target: GpuTarget, outcomes: readonly Outcome[]): KybernateError {
  const final = outcomes.every(
    ({ state, error }) => state === 'failed' || (state === 'checkpointed' && error instanceof CudaError),
  );
  return new KybernateError(
    'Poisoned',
    `the GPU work of container ${target.container} does not run again: ${outcomes.map(outcomeText).join('; ')}; ` +
      (final
        ? 'the driver does not give it back: end the container and restore it from a checkpoint'
        : 'it is tried again; look at the driver (nvidia-smi, dmesg)'),
    { details: { final, processes: outcomes.map(describeOutcome) } },
  );
}

/*
 * One call of the driver on one process, and what is known afterwards. A call may end late, answer with an error although
 * it has done its work, or find it done by an earlier attempt: the state that the driver tells decides, not the answer.
 * No call is made while the container stands still: it would hang until the thaw, whatever its timeout.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GPU_TRANSITIONS, type GpuProcessState, type GpuTransition } from '../../core/gpu/process-state.ts';
import { KybernateError, messageOf } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import { CudaError, CudaTimeout } from '../../native/cuda/error.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { freezerState, type Freezer } from '../freezer.ts';
import type { GpuProcess } from './gpu-plan.ts';

/** GPU processes of one container that are saved or brought back together. */
export interface GpuTarget {
  readonly driver: GpuDriver;
  readonly processes: readonly GpuProcess[];
  readonly freezer: Freezer;
  /** `<namespace>/<id>`, for messages */
  readonly container: string;
  readonly log: Logger;
  /** how long a call that did not end in time, or a state that should be another, is given to show its effect */
  readonly settleMs?: number;
}

/** `gone`: ended. `unknown`: the driver did not say. */
export type SeenState = GpuProcessState | 'none' | 'gone' | 'unknown';

export interface Outcome {
  readonly process: GpuProcess;
  readonly state: SeenState;
  /** absent when the process is where it was to go */
  readonly error?: unknown;
}

const MIB = 1024 * 1024;
/** Without VRAM; measured: 0.3 s (H100). */
const MOVE_BASE_MS = 30_000;
/** Far below what the slowest machine copies; measured: 2.5 to 8 GB/s. */
const MOVE_BYTES_PER_MS = 100 * 1000;
/** A state is told at once, unless a save or restore is under way. */
export const STATE_MS = 5000;
export const UNLOCK_MS = 10_000;
/** For the driver's own bookkeeping beyond the timeout that it was given. */
export const LOCK_GRACE_MS = 5000;
export const SETTLE_MS = 2000;
/** From SIGKILL to the end of a process that holds much memory. */
const DYING_MS = 1000;
const POLL_MS = 50;

/** How long a save or restore of this process may take before it counts as hung. */
export function moveMs(process: GpuProcess): number {
  return MOVE_BASE_MS + Math.ceil(process.vramBytes / MOVE_BYTES_PER_MS);
}

/** Is it still the process of the plan? */
export function isAlive({ hostPid, startTime }: GpuProcess): boolean {
  const live = readProcess(hostPid);
  return live !== undefined && live.startTime === startTime && !['Z', 'X'].includes(live.state);
}

/** Has a signal stopped it? Like one in a closed freezer it answers the driver when it runs again. */
export function isStopped(hostPid: number): boolean {
  return readProcess(hostPid)?.state === 'T';
}

/** @throws DumpFailed when the container stands still: a call would hang */
export function assertThawed(target: GpuTarget): void {
  const state = freezerState(target.freezer);
  if (state === 'frozen' || state === 'freezing') {
    throw new KybernateError(
      'DumpFailed',
      `container ${target.container} is ${state}, and the driver's calls hang on a process that stands still: none was ` +
        `made; thaw ${target.freezer.path} (was the container paused?)`,
      { details: { freezer: state } },
    );
  }
}

/** What the driver says of one process. Never throws. */
export async function stateOf(target: GpuTarget, process: GpuProcess, deadlineMs = STATE_MS): Promise<SeenState> {
  if (!isAlive(process)) {
    return 'gone';
  }
  try {
    return await target.driver.processState(process.hostPid, deadlineMs);
  } catch (error) {
    if (!isAlive(process)) {
      return 'gone';
    }
    target.log.warn({ hostPid: process.hostPid, error: messageOf(error) }, 'the driver does not tell a state');
    return 'unknown';
  }
}

/** States of all processes, in their order. @param deadlineMs of each; default: long enough for a move under way */
export function gpuStates(target: GpuTarget, deadlineMs?: number): Promise<Outcome[]> {
  return Promise.all(
    target.processes.map(async (process) => ({
      process,
      state: await stateOf(target, process, deadlineMs ?? moveMs(process)),
    })),
  );
}

/**
 * Makes one transition and says where the process is then. A process that is there already is not touched.
 * @param settleMs how long to look for the effect of a call that did not end by its deadline
 */
export async function transition(
  target: GpuTarget,
  seen: Outcome,
  name: GpuTransition,
  act: () => Promise<void>,
  settleMs = target.settleMs ?? SETTLE_MS,
): Promise<Outcome> {
  const { process } = seen;
  const { from, to } = GPU_TRANSITIONS[name];
  if (seen.state !== from) {
    return seen;
  }
  try {
    await act();
    return { process, state: to };
  } catch (error) {
    const state = await settle(target, process, from, error instanceof CudaTimeout ? settleMs : 0);
    target.log.warn(
      { hostPid: process.hostPid, call: name, state, error: messageOf(error) },
      'a call of the driver failed',
    );
    return state === to ? { process, state } : { process, state, error };
  }
}

/**
 * Polls until the process has left `from`, or nothing more is to be expected. One that is dying is no CUDA process, or
 * none that the driver can tell of, before it is gone.
 */
async function settle(
  target: GpuTarget,
  process: GpuProcess,
  from: GpuProcessState,
  forMs: number,
): Promise<SeenState> {
  const begun = performance.now();
  for (;;) {
    const state = await stateOf(target, process, Math.max(forMs, STATE_MS));
    const waitMs = state === from ? forMs : state === 'none' || state === 'unknown' ? Math.max(forMs, DYING_MS) : 0;
    if (performance.now() - begun >= waitMs) {
      return state;
    }
    await sleep(POLL_MS);
  }
}

/** JSON-safe: pid, state, and the driver's code. */
export function describeOutcome({ process, state, error }: Outcome): Record<string, unknown> {
  return {
    hostPid: process.hostPid,
    command: process.command,
    state,
    ...(error instanceof CudaError ? { call: error.call, code: error.code, name: error.name } : {}),
    ...(error === undefined || error instanceof CudaError ? {} : { error: messageOf(error) }),
  };
}

/** `4711 (python3): ... ` for messages. */
export function outcomeText({ process, state, error }: Outcome): string {
  const who = `process ${process.hostPid} (${process.command})`;
  if (state === 'gone') {
    return `${who} has ended`;
  }
  if (state === 'none') {
    return `${who} does not use the GPU any more`;
  }
  return error === undefined ? `${who} is ${state}` : `${who} is ${state}: ${messageOf(error)}`;
}

export const megabytes = (bytes: number): number => Math.ceil(bytes / MIB);

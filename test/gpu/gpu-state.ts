/* What the GPU cases have in common: the driver as this process sees it, and what must hold after every operation. */
import { basename } from 'node:path';

import type { PhaseTimes } from '../../core/contract/checkpoint.ts';
import type { GpuRestoreFacts } from '../../core/contract/restore.ts';
import type { RunnerStep } from '../../core/phases.ts';
import { operationPids } from '../../engine/operation-cgroup.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { openGpuDriver } from '../../native/cuda/open.ts';
import { type CaseContext, errorText } from './case.ts';
import { assert, assertEqual, type Environment, until } from './environment.ts';
import { vramState, type VramState } from './gpu-container.ts';
import type { Machine } from './machine.ts';

export const MIB = 1024 * 1024;
const DEADLINE_MS = 120_000;

/** Undefined when the cases are tried out without a GPU. */
export function gpuDriver(machine: Machine): GpuDriver | undefined {
  if (machine.gpus.length === 0) {
    return undefined;
  }
  const found = openGpuDriver({
    cudaLibrary: process.env['KYBERNATE_LIBCUDA'] ?? 'libcuda.so.1',
    nvmlLibrary: process.env['KYBERNATE_LIBNVML'] ?? 'libnvidia-ml.so.1',
  });
  if (found.driver === undefined) {
    throw new Error(`no GPU driver: ${found.reason}`);
  }
  return found.driver;
}

/** Host pids of a container's processes, first process first. */
export async function processesOf(env: Environment, id: string): Promise<number[]> {
  const init = await env.initPid(id);
  return [init, ...(await env.pids(id)).filter((pid) => pid !== init)];
}

/** No process of the container is locked or saved, as the driver itself says. */
export async function assertUnlocked({ env, machine }: CaseContext, id: string): Promise<void> {
  const driver = gpuDriver(machine);
  for (const pid of driver === undefined ? [] : await processesOf(env, id)) {
    const state = await driver?.processState(pid, DEADLINE_MS);
    assert(state === 'running' || state === 'none', `process ${pid} of ${id} runs: it is ${state}`);
  }
}

/** As `assertUnlocked`, for what comes by itself: a runner's own way back, or a worker that reconciles. */
export async function untilUnlocked(context: CaseContext, id: string, timeoutMs: number): Promise<void> {
  await until(`${id} to be unlocked`, timeoutMs, () =>
    assertUnlocked(context, id).then(
      () => true,
      () => false,
    ),
  );
}

/** The three tokens are those of before, every cell of GPU memory is right, the process ticks on and is unlocked. */
export async function assertGoesOn(context: CaseContext, id: string, since: VramState, name = 'state'): Promise<void> {
  const { env } = context;
  const { tick: _before, ...before } = since;
  await until(`${id} to tick on`, 60_000, async () => {
    const { tick, ...now } = await vramState(env, id, name);
    assertEqual(now, before, `state of ${id}`);
    return tick > since.tick + 3;
  });
  await assertUnlocked(context, id);
}

/** The phases of a checkpoint go to the results, and add up within 2 %. */
export function recordCheckpoint(
  { record, machine }: CaseContext,
  name: string,
  result: {
    readonly freezeMs: number;
    readonly phases: PhaseTimes;
    readonly gpuProcesses: number;
    readonly vramBytes: number;
  },
  processes = 1,
): void {
  const { phases, freezeMs, vramBytes, gpuProcesses } = result;
  record(name, { ...phases, freezeMs, vramMib: Math.round(vramBytes / MIB) });
  const slackMs = Math.max(2, phases.totalMs * 0.02);
  assert(
    Math.abs(phases.unaccountedMs) <= slackMs,
    `the phases add up: ${phases.unaccountedMs} of ${phases.totalMs} ms`,
  );
  if (machine.gpus.length > 0) {
    assertEqual(gpuProcesses, processes, 'GPU processes of the checkpoint');
  }
}

/** The parts of the GPU's way back go to the results, and add up within 2 %. */
export function recordRestore(
  { record, machine }: CaseContext,
  name: string,
  result: { readonly how: string; readonly restoreMs: number; readonly gpu?: GpuRestoreFacts },
  processes = 1,
): void {
  assertEqual(result.how, 'restored', 'how');
  const { gpu, restoreMs } = result;
  record(name, { restoreMs, ...(gpu === undefined ? {} : { gpuMs: gpu.restoreMs, parts: gpu.parts }) });
  if (machine.gpus.length > 0) {
    assertEqual(gpu?.processes, processes, 'GPU processes of the restore');
    const sum = Object.values(gpu?.parts ?? {}).reduce((total, ms) => total + ms, 0);
    const wholeMs = gpu?.restoreMs ?? 0;
    assert(Math.abs(wholeMs - sum) <= Math.max(2, wholeMs * 0.02), `the parts add up: ${sum} of ${wholeMs} ms`);
  }
}

/** Waits for an entry of the operation's journal. Without a GPU there are none of the GPU's steps. */
export async function untilStep(
  { env, machine }: Pick<CaseContext, 'env' | 'machine'>,
  id: string,
  step: RunnerStep,
  state: 'begin' | 'done',
): Promise<void> {
  const wanted = machine.gpus.length === 0 && step.startsWith('gpu-') ? 'frozen' : step;
  await until(
    `${step} ${state} of ${id}`,
    60_000,
    () => env.journalOf(id).some((entry) => entry.step === wanted && entry.state === state),
    2,
  );
}

/** SIGKILL to the runner and to everything that it has started, as the end of its machine's service would. */
export function killOperationOf(env: Environment, id: string): void {
  const dir = env.operationOf(id);
  const pids = dir === undefined ? [] : operationPids(basename(dir));
  assert(pids.length > 0, `${id} has an operation to kill`);
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // ESRCH: ended by itself.
    }
  }
}

/** Fails unless the work fails, and returns the type of its error. */
export async function errorType(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (failure: unknown) => failure,
  );
  assert(error !== undefined, 'the operation fails');
  return error instanceof Error && 'type' in error ? String(error.type) : errorText(error);
}

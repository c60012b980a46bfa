/*
 * The GPU's part of an operation, around the capture: everything from the hook of the workload to the save of its VRAM,
 * and all the way back. The journal says before each act that it may have happened, so that whoever finds it, a runner or
 * a worker after it, makes the same way back from wherever the way there has ended.
 */
import type { WorkloadHook } from '../core/contract/gpu.ts';
import type { SaveGpuStateResult } from '../core/contract/checkpoint.ts';
import { isKybernateError, KybernateError, messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { GpuDriverOrNot, GpuMemoryUse } from '../native/cuda/gpu-driver.ts';
import type { Run } from '../native/run/run.ts';
import { bringBackGpu, bringBackMs, stillHeld } from './gpu/bring-back.ts';
import type { GpuTarget } from './gpu/driver-call.ts';
import { runHook } from './gpu/hooks.ts';
import { putBackHugePages, setHugePages } from './gpu/huge-pages.ts';
import { childrenNow } from './gpu/latecomers.ts';
import { PUT_BACK_MS, putBackMemory, raiseMemory } from './gpu/memory-room.ts';
import { memoryOf, saveGpu } from './gpu/save.ts';
import { scrubChildren } from './gpu/scrub.ts';
import { appendJournal, readJournal, tryAppendJournal } from './journal.ts';
import { checkToken, operationPaths, type OperationPlan } from './operation.ts';
import type { PhaseTimer } from './phase-timer.ts';

export interface GpuSection {
  readonly plan: OperationPlan;
  readonly run: Run;
  readonly gpu: () => GpuDriverOrNot;
  readonly log: Logger;
}

export function hasGpu(plan: OperationPlan): boolean {
  return plan.gpu.processes.length > 0;
}

/**
 * Hook, room in memory, huge pages, lock, save, children: in this order.
 *
 * @param onLocking called when the journal says that the lock may have begun
 * @throws whatever a part threw: the caller undoes, with `resumeGpuSection` behind it
 * Crash: the journal's last entry of the GPU is one of the begins; `mayHoldGpu` says so.
 */
export async function saveGpuSection(
  section: GpuSection,
  timer: PhaseTimer,
  signal: AbortSignal,
  onLocking: () => void,
): Promise<SaveGpuStateResult> {
  const { plan, run, log } = section;
  const { journal } = operationPaths(plan.settings, plan.operationId);
  const target = targetOf(section, 'GpuUnsupported');
  if (plan.gpu.quiesce !== undefined) {
    timer.part('quiesce');
    appendJournal(journal, { step: 'quiescing', state: 'begin', data: { allowMs: plan.gpu.quiesce.timeoutMs } });
    await runHook(run, plan, plan.gpu.quiesce, signal);
  }
  timer.part('gpu-room');
  // The hook of the workload took its time.
  checkToken(plan.settings, plan.container, plan.token);
  appendJournal(journal, { step: 'gpu-locking', state: 'begin' });
  onLocking();
  raiseMemory(plan);
  setHugePages(plan).forEach((warning) => log.warn({ operationId: plan.operationId }, warning));
  signal.throwIfAborted();
  // Read while the workload runs: what it takes between this and the lock only makes the check of the way back milder.
  const memory = memoryOf(target);
  timer.gpuPaused();
  await saveGpu(target, {
    lockTimeoutMs: plan.gpu.lockTimeoutMs,
    signal,
    onPart: (part) => timer.part(part),
    onBackOut: () => noteRestoring(section),
    onLocked: () => tryAppendJournal(journal, { step: 'gpu-locking', state: 'done', data: { memory } }, log),
  });
  timer.part('gpu-scrub');
  await scrubChildren({ ...plan, gpu: { ...plan.gpu, children: await childrenNow(plan, target.driver) } }, log);
  signal.throwIfAborted();
  tryAppendJournal(journal, { step: 'gpu-saved', state: 'done' }, log);
  const { totalMs, parts } = timer.times();
  return { gpuProcesses: plan.gpu.processes.length, vramBytes: savedBytes(plan, memory), durationMs: totalMs, parts };
}

/**
 * After the thaw: VRAM back, unlocked, verified, limits and huge pages as before, and the workload told. Idempotent.
 *
 * @returns warnings: the workload runs, but something beside it is not as before
 * @throws Poisoned; `details.final` is true when trying again is useless. The journal says that it failed: a runner that
 * lives tries again by itself, and its guard leaves it that.
 * Crash: call it again.
 */
export async function resumeGpuSection(section: GpuSection, timer?: PhaseTimer): Promise<readonly string[]> {
  const { plan, log } = section;
  const { journal } = operationPaths(plan.settings, plan.operationId);
  noteRestoring(section);
  try {
    await bringBackGpu(targetOf(section, 'Poisoned'), {
      memory: measuredMemory(plan),
      onPart: (part) => timer?.part(part),
    });
  } catch (error) {
    // The limits stay raised: the VRAM lies in host memory still.
    putBackHugePages(plan).forEach((warning) => log.warn({ operationId: plan.operationId }, warning));
    tryAppendJournal(journal, { step: 'gpu-restoring', state: 'failed', data: { error: messageOf(error) } }, log);
    throw asPoisoned(error);
  }
  timer?.gpuRuns();
  timer?.part('gpu-put-back');
  const allowMs = PUT_BACK_MS + (plan.gpu.resume?.timeoutMs ?? 0);
  tryAppendJournal(journal, { step: 'gpu-restored', state: 'begin', data: { allowMs } }, log);
  const warnings = [...(await putBackLimits(plan)), ...(await tellWorkload(section, plan.gpu.resume, timer))];
  warnings.forEach((warning) => log.warn({ operationId: plan.operationId }, warning));
  tryAppendJournal(journal, { step: 'gpu-restored', state: 'done', data: { warnings } }, log);
  return warnings;
}

/** With the time that it may take, for those who wait for the runner. */
function noteRestoring({ plan, log }: GpuSection): void {
  const { journal } = operationPaths(plan.settings, plan.operationId);
  const data = { allowMs: bringBackMs(plan.gpu.processes) };
  tryAppendJournal(journal, { step: 'gpu-restoring', state: 'begin', data }, log);
}

/** Also where the source was ended: the cgroups above it live on. @returns what is not as before */
export async function putBackLimits(plan: OperationPlan): Promise<readonly string[]> {
  return [...(await putBackMemory(plan)), ...putBackHugePages(plan)];
}

/** Does the driver say of every GPU process of the plan that it runs, or has ended? */
export async function gpuRuns(section: GpuSection): Promise<boolean> {
  const opened = section.gpu();
  return opened.driver !== undefined && (await stillHeld(targetOf(section, 'Poisoned'), 0)).length === 0;
}

async function tellWorkload(
  { run, plan }: GpuSection,
  hook: WorkloadHook | undefined,
  timer: PhaseTimer | undefined,
): Promise<string[]> {
  if (hook === undefined) {
    return [];
  }
  timer?.part('resume-hook');
  try {
    await runHook(run, plan, hook, new AbortController().signal);
    return [];
  } catch (error) {
    // The workload runs, which is what counts: that it was not told is for its owner.
    return [`the resume hook failed: ${messageOf(error)}`];
  }
}

/** @throws GpuUnsupported when the driver is gone; nothing was touched */
export function checkDriver(section: GpuSection): void {
  targetOf(section, 'GpuUnsupported');
}

/** @throws the type that is given, when this node has lost its driver since the plan */
function targetOf({ plan, gpu, log }: GpuSection, type: 'GpuUnsupported' | 'Poisoned'): GpuTarget {
  const opened = gpu();
  const container = `${plan.container.namespace}/${plan.container.id}`;
  if (opened.driver === undefined) {
    throw new KybernateError(
      type,
      `the GPU processes of container ${container} cannot be reached: ${opened.reason}` +
        (type === 'GpuUnsupported' ? '; nothing was touched' : '; they may be locked'),
    );
  }
  return { driver: opened.driver, processes: plan.gpu.processes, freezer: plan.facts.freezer, container, log };
}

/** What the processes held when they were locked; empty when nobody lived to write it down. */
export function measuredMemory(plan: OperationPlan): readonly GpuMemoryUse[] {
  const { journal } = operationPaths(plan.settings, plan.operationId);
  try {
    const locked = readJournal(journal).findLast(({ step, state }) => step === 'gpu-locking' && state === 'done');
    return (locked?.data?.['memory'] ?? []) as readonly GpuMemoryUse[];
  } catch {
    // A journal that cannot be read must not keep the GPU locked: the plan's figures serve too.
    return [];
  }
}

/** VRAM of one process when it was locked; the plan's figure where NVML did not tell. */
function processBytes(plan: OperationPlan, hostPid: number, memory: readonly GpuMemoryUse[]): number {
  const used = memory.filter((use) => use.hostPid === hostPid);
  return used.length > 0
    ? used.reduce((sum, { usedBytes }) => sum + usedBytes, 0)
    : (plan.gpu.processes.find((process) => process.hostPid === hostPid)?.vramBytes ?? 0);
}

function savedBytes(plan: OperationPlan, memory: readonly GpuMemoryUse[]): number {
  return plan.gpu.processes.reduce((sum, { hostPid }) => sum + processBytes(plan, hostPid, memory), 0);
}

/** Whoever lets a workload go reports that it does not run, whatever the reason. */
function asPoisoned(error: unknown): unknown {
  return isKybernateError(error, 'Poisoned')
    ? error
    : new KybernateError('Poisoned', messageOf(error), {
        details: isKybernateError(error) ? { ...error.details, final: false } : { final: false },
        cause: error,
      });
}

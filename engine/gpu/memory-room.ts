/*
 * The save moves VRAM into host memory of the process, where its cgroup's limits count it: without room the kernel kills
 * the job. Limits that are too low are raised for the time of the operation, outermost first, and put back innermost
 * first. The plan holds both texts, so that whoever finds the operation of a dead runner can put them back.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError, messageOf } from '../../core/errors.ts';
import type { OperationPlan } from '../operation.ts';
import type { MemoryRaise } from './gpu-plan.ts';

/** How long usage may take to fall below the old limit again after the unlock. */
export const PUT_BACK_MS = 10_000;
const POLL_MS = 100;

/** Text of a limit's file; undefined when the cgroup is gone or has no such limit. */
export function readLimit(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    // ENODEV: the cgroup was removed while its file was open.
    if (['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return undefined;
    }
    throw error;
  }
}

/**
 * Idempotent: a limit that is raised already stays.
 * @throws Incompatible a limit cannot be raised, or is not what it was at the plan; those raised before are put back
 * Crash: some limits are raised; `putBackMemory` finds them in the plan.
 */
export function raiseMemory(plan: Pick<OperationPlan, 'gpu' | 'container'>): void {
  const raised: MemoryRaise[] = [];
  for (const raise of plan.gpu.memoryRaises) {
    const failed = raiseOne(raise);
    if (failed !== undefined) {
      const left = raised.reverse().flatMap((one) => tryPutBack(one)?.left ?? []);
      throw new KybernateError(
        'Incompatible',
        `container ${plan.container.namespace}/${plan.container.id} needs ${raise.after} bytes in ${raise.file} to take ` +
          `its GPU memory: ${failed}; the container was not touched` +
          (left.length === 0 ? '' : `, but ${left.join('; ')}`),
        { details: { ...raise, reasons: [failed, ...left] } },
      );
    }
    raised.push(raise);
  }
}

/** @returns why it could not be raised */
function raiseOne(raise: MemoryRaise): string | undefined {
  const now = readLimit(raise.file);
  if (now === raise.after) {
    return undefined;
  }
  if (now !== raise.before) {
    return `it was ${raise.before} at the plan and is ${now ?? 'gone'} now; try again`;
  }
  try {
    writeFileSync(raise.file, raise.after);
  } catch (error) {
    return `it cannot be raised (${messageOf(error)}); raise it yourself, or run the agent with the right to`;
  }
  const read = readLimit(raise.file);
  return read === raise.after ? undefined : `the kernel made ${read ?? 'nothing'} of it`;
}

/**
 * Idempotent, never throws. A limit that somebody else has changed meanwhile is left alone. Waits while more is in use
 * than the old limit allows: to lower it below that would kill the workload.
 *
 * @returns what could not be put back, each with what to do; empty when all is as before
 */
export async function putBackMemory(
  plan: Pick<OperationPlan, 'gpu'>,
  waitMs = PUT_BACK_MS,
): Promise<readonly string[]> {
  const left: string[] = [];
  const until = Date.now() + waitMs;
  for (const raise of [...plan.gpu.memoryRaises].reverse()) {
    let outcome = tryPutBack(raise);
    while (outcome?.again === true && Date.now() < until) {
      await sleep(POLL_MS);
      outcome = tryPutBack(raise);
    }
    if (outcome !== undefined) {
      left.push(outcome.left);
    }
  }
  return left;
}

/** @returns undefined when it is as before, or its cgroup has gone with the container */
function tryPutBack(raise: MemoryRaise): { readonly left: string; readonly again: boolean } | undefined {
  const remedy = `it was ${raise.before}: write that to ${raise.file}`;
  try {
    const now = readLimit(raise.file);
    if (now === undefined || now === raise.before) {
      return undefined;
    }
    if (now !== raise.after) {
      const left = `the memory limit ${raise.file} was changed to ${now} by somebody else meanwhile and is left alone`;
      return { left, again: false };
    }
    const used = unreclaimable(raise.file);
    if (used !== undefined && used >= Number(raise.before)) {
      return {
        left: `the memory limit ${raise.file} stays raised, since ${used} bytes are in use; ${remedy}`,
        again: true,
      };
    }
    writeFileSync(raise.file, raise.before);
    const read = readLimit(raise.file);
    return read === raise.before || read === undefined
      ? undefined
      : { left: `the memory limit ${raise.file} is ${read} after it was put back; ${remedy}`, again: false };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (['ENOENT', 'ENODEV'].includes(code)) {
      return undefined;
    }
    // EBUSY: cgroup v1 could not push usage below it yet.
    return {
      left: `the memory limit ${raise.file} could not be put back: ${messageOf(error)}; ${remedy}`,
      again: code === 'EBUSY',
    };
  }
}

/** The file that tells the usage which a limit of cgroup v2 bounds. */
const USAGE_V2: Readonly<Record<string, string>> = {
  'memory.max': 'memory.current',
  'memory.high': 'memory.current',
  'memory.swap.max': 'memory.swap.current',
};

/**
 * cgroup v2 takes every limit and kills what does not fit; file pages do not count, they are dropped first.
 * @returns bytes; undefined on cgroup v1, which refuses by itself
 */
function unreclaimable(file: string): number | undefined {
  const dir = dirname(file);
  const usageFile = USAGE_V2[file.slice(dir.length + 1)];
  const usage = usageFile === undefined ? undefined : readLimit(join(dir, usageFile));
  if (usage === undefined) {
    return undefined;
  }
  const stat = usageFile === 'memory.current' ? (readLimit(join(dir, 'memory.stat')) ?? '') : '';
  return Number(usage) - statBytes(stat, 'active_file') - statBytes(stat, 'inactive_file');
}

/** One line of memory.stat. Source: Documentation/admin-guide/cgroup-v2.rst, memory.stat; cgroup-v1/memory.rst, 5.2. */
export function statBytes(stat: string, name: string): number {
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(stat)?.[1] ?? 0);
}

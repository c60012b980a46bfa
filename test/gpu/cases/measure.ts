/* Figures: the phases of 8 GiB, our GPU step beside the bare calls of the driver, and what the step costs by itself. */
import { readFileSync, writeFileSync } from 'node:fs';

import type { GpuDriver } from '../../../native/cuda/gpu-driver.ts';
import type { Case, CaseContext } from '../case.ts';
import { assert } from '../environment.ts';
import { startVram } from '../gpu-container.ts';
import { assertGoesOn, gpuDriver, recordCheckpoint, recordRestore } from '../gpu-state.ts';

const DEADLINE_MS = 120_000;
const HUGE_PAGES = '/sys/kernel/mm/transparent_hugepage/enabled';
const ROUNDS = 5;
const MAX_RATIO = 1.05;
const MAX_FIXED_MS = 20;

function hugePages(): string {
  return /\[(\w+)\]/.exec(readFileSync(HUGE_PAGES, 'utf8'))?.[1] ?? 'unknown';
}

/** Every phase of a checkpoint and of a restore, with and without huge pages for the time of it. */
async function eightGib(context: CaseContext): Promise<void> {
  const { env, note } = context;
  const before = hugePages();
  const { id: first, state } = await startVram(context, [8192]);
  let id = first;
  for (const huge of [true, false]) {
    const name = huge ? 'hugePages' : `hugePages:${before}`;
    const result = await env.checkpoint(id, { gpu: { hugePages: huge } });
    await assertGoesOn(context, id, state);
    recordCheckpoint(context, `${name} resume`, result);
    const stopped = await env.checkpoint(id, { after: 'stop', gpu: { hugePages: huge } });
    recordCheckpoint(context, `${name} stop`, stopped);
    await env.remove(id);
    const restored = await env.restore(stopped.checkpointId, 'big-back');
    await assertGoesOn(context, restored.id, state);
    recordRestore(context, `${name} restore`, restored);
    id = restored.id;
    note(`${name}: ${JSON.stringify(result.phases.parts)}, restored in ${restored.restoreMs} ms`);
    assert(hugePages() === before, `huge pages are ${before} again: ${hugePages()}`);
  }
}

interface Times {
  readonly lock: number;
  readonly save: number;
  readonly restore: number;
  readonly unlock: number;
}

async function timed(work: () => Promise<void>): Promise<number> {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}

async function bareCalls(driver: GpuDriver, pid: number): Promise<Times> {
  const lock = await timed(() => driver.lock(pid, 10_000, DEADLINE_MS));
  const save = await timed(() => driver.checkpoint(pid, DEADLINE_MS));
  const restore = await timed(() => driver.restore(pid, [], DEADLINE_MS));
  const unlock = await timed(() => driver.unlock(pid, DEADLINE_MS));
  return { lock, save, restore, unlock };
}

function median(values: readonly number[]): number {
  return [...values].sort((left, right) => left - right)[Math.floor(values.length / 2)] ?? NaN;
}

interface Comparison {
  readonly bare: readonly Times[];
  readonly ours: readonly { readonly save: number; readonly restore: number; readonly pauseMs: number }[];
}

/** In turn on the same process, both with huge pages, which our step sets for itself. */
async function compare(context: CaseContext, mib: number): Promise<Comparison> {
  const { env, machine } = context;
  const driver = gpuDriver(machine);
  assert(driver !== undefined, 'there is a driver');
  const { id, state } = await startVram(context, [mib]);
  const pid = await env.initPid(id);
  const before = hugePages();
  const bare: Times[] = [];
  const ours: Comparison['ours'][number][] = [];
  // The first of each is for the driver's and the worker's warm-up.
  for (let round = 0; round <= ROUNDS; round += 1) {
    writeFileSync(HUGE_PAGES, 'always');
    try {
      bare.push(await bareCalls(driver, pid));
    } finally {
      writeFileSync(HUGE_PAGES, before);
    }
    const { parts, gpuPauseMs } = await env.rehearse(id);
    ours.push({ save: parts['gpu-save'] ?? NaN, restore: parts['gpu-restore'] ?? NaN, pauseMs: gpuPauseMs ?? NaN });
  }
  await assertGoesOn(context, id, state);
  return { bare: bare.slice(1), ours: ours.slice(1) };
}

/** @throws when our save or restore takes longer than the bare call times 1.05 */
async function beside(context: CaseContext): Promise<void> {
  const { bare, ours } = await compare(context, 8192);
  context.record('rounds', { bare, ours });
  for (const call of ['save', 'restore'] as const) {
    const [own, plain] = [median(ours.map((one) => one[call])), median(bare.map((one) => one[call]))];
    const ratio = own / plain;
    context.record(call, { oursMs: own, bareMs: plain, ratio });
    context.note(`${call}: ${own.toFixed(0)} ms, bare ${plain.toFixed(0)} ms, ratio ${ratio.toFixed(3)}`);
    assert(ratio <= MAX_RATIO, `${call} takes at most ${MAX_RATIO} times the bare call: ${ratio}`);
  }
}

/**
 * Of a process with next to no memory: what of the pause is neither save nor restore, less the bare lock and unlock. Save
 * and restore themselves, which differ from call to call by more than that, are compared by `beside`.
 */
async function fixedCost(context: CaseContext): Promise<void> {
  const { bare, ours } = await compare(context, 16);
  const calls = median(bare.map(({ lock, unlock }) => lock + unlock));
  const around = median(ours.map(({ pauseMs, save, restore }) => pauseMs - save - restore));
  context.record('fixedCost', { aroundMs: around, bareMs: calls, ownMs: around - calls, rounds: { bare, ours } });
  context.note(`around save and restore ${around.toFixed(1)} ms, bare lock and unlock ${calls.toFixed(1)} ms`);
  assert(around - calls <= MAX_FIXED_MS, `our step costs at most ${MAX_FIXED_MS} ms: ${around - calls}`);
}

const real = (name: string, run: Case['run'], timeoutMs: number): Case => ({
  name,
  needs: 'gpu',
  real: true,
  timeoutMs,
  run,
});

export const MEASURE_CASES: readonly Case[] = [
  real('gpu-8gib', eightGib, 240_000),
  real('gpu-beside-bare', beside, 180_000),
  real('gpu-fixed-cost', fixedCost, 60_000),
];

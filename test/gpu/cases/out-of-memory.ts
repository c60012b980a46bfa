/*
 * A GPU that has no room when a restore needs it: before anything is made, and after the last look at it, when the driver
 * has begun. `hog` waits until the driver takes memory for the restore, and takes all the rest.
 */
import { writeFileSync } from 'node:fs';

import type { Case, CaseContext } from '../case.ts';
import { errorText } from '../case.ts';
import { assert, assertEqual, BUSYBOX, until } from '../environment.ts';
import { gpuFlags, startVram, type VramState } from '../gpu-container.ts';
import { assertGoesOn, errorType, gpuDriver } from '../gpu-state.ts';
import { Pods } from '../pod.ts';
import { assertRestored, podCheckpoint, restoreFrom, startApp } from './pods.ts';

const MIB = 4096;
/** What the checkpoint needs with its context, and a little more: the look before the restore finds room. */
const LEFT_MIB = MIB + 1024;

interface Hog {
  readonly id: string;
  readonly phase: () => Promise<string>;
  readonly release: () => Promise<void>;
}

interface HogState {
  readonly phase: string;
  readonly heldMib: number;
  readonly freeMib: number;
}

/** @param when `now`, or once a restore takes from what it left */
async function startHog({ env, machine, record }: CaseContext, when: 'now' | 'at a restore'): Promise<Hog> {
  const args = when === 'now' ? ['0', 'now'] : [String(LEFT_MIB)];
  const id = await env.run('hog', BUSYBOX, ['/w/hog', ...args], gpuFlags(machine));
  const state = async (): Promise<HogState> => env.readJson<HogState>(id);
  record(`hog ${when}`, await state());
  return {
    id,
    phase: async () => (await state()).phase,
    release: async () => {
      record(`hog ${when}, at its end`, await state());
      writeFileSync(await env.path(id, '/tmp/release'), '');
      await until('the hog to end', 20_000, async () => (await env.status(id)) === 'stopped');
    },
  };
}

async function stopped(context: CaseContext): Promise<{ readonly checkpointId: string; readonly state: VramState }> {
  const { env } = context;
  const { id, state } = await startVram(context, [MIB]);
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  return { checkpointId, state };
}

/** What the driver itself said, from the worker's log. */
function driverSaid({ env }: CaseContext): string | undefined {
  return env
    .workerLog('worker-node', 400)
    .split('\n')
    .findLast((line) => line.includes('GPU state was not restored'));
}

/** The driver runs out of memory; when there is room again the same images are restored once more, by the same call. */
async function triedAgain(context: CaseContext): Promise<void> {
  const { env, record } = context;
  const { checkpointId, state } = await stopped(context);
  const hog = await startHog(context, 'at a restore');
  const handle = await env.startRestore(checkpointId, 'again', { ladder: ['local-copy'] });
  let isOver = false;
  const outcome = handle
    .result()
    .catch((error: unknown) => error)
    .finally(() => (isOver = true));
  const hasFailed = (): boolean => env.restoresOf(handle.id).some(({ state: how }) => how === 'failed');
  await until('the first try to fail', 90_000, () => hasFailed() || isOver, 2);
  record('driver', driverSaid(context));
  await hog.release();
  const result = await outcome;
  assert(!(result instanceof Error), `the second try succeeds: ${errorText(result)}`);
  await assertGoesOn(context, handle.id, state);
  assert(driverSaid(context)?.includes('OUT_OF_MEMORY') === true, `the driver itself said so: ${driverSaid(context)}`);
}

/** No room comes: the error says so, nothing is left of the try, and the checkpoint restores later. */
async function staysFull(context: CaseContext): Promise<void> {
  const { env, machine, record } = context;
  const { checkpointId, state } = await stopped(context);
  const hog = await startHog(context, 'at a restore');
  const handle = await env.startRestore(checkpointId, 'full', { ladder: ['local-copy'] });
  const error: unknown = await handle.result().then(
    () => undefined,
    (failure: unknown) => failure,
  );
  record('error', errorText(error));
  assertEqual(await errorType(Promise.reject(error as Error)), 'GpuOutOfMemory', 'error');
  assertEqual(await env.status(handle.id), undefined, 'task of the restore that failed');
  const pids = new Set(await env.pids(hog.id));
  const others = (gpuDriver(machine)?.memoryInUse() ?? []).filter(({ hostPid }) => !pids.has(hostPid));
  assertEqual(others, [], 'GPU memory that is left in use');
  await hog.release();
  const later = await env.restore(checkpointId, 'later');
  await assertGoesOn(context, later.id, state);
}

/** Nothing is free from the start: a pod is told before anything is made, and comes back when there is room. */
async function podWithoutRoom(context: CaseContext): Promise<void> {
  const { env, machine, record } = context;
  await Pods.use(env, async (pods) => {
    const { checkpointId, state } = await podCheckpoint(context, pods, 1024);
    const hog = await startHog(context, 'now');
    const given = machine.gpus.slice(0, 1);
    const minors = given.map(({ minor }) => minor);
    const pod = await pods.start('full', restoreFrom(checkpointId));
    const refusal = await startApp(context, pod, { minors }).then(
      () => 'it was made',
      (error: unknown) => errorText(error),
    );
    record('refusal', refusal);
    assert(
      /was not restored from \S+: GpuOutOfMemory: .*bytes free, \d+ are needed/.test(refusal),
      `it says why: ${refusal}`,
    );
    const waits = await pods.start('waits', { ...restoreFrom(checkpointId), 'kybernate.io/on-failure': 'wait' });
    const begun = performance.now();
    const waiting = startApp(context, waits, { minors });
    waiting.catch(() => undefined);
    // Long enough for several looks at the GPU.
    await until('the first attempt', 20_000, () => performance.now() - begun > 5000);
    await hog.release();
    await assertRestored(context, waits, await waiting, state);
    record('waitedMs', Math.round(performance.now() - begun));
  });
}

/** The same as for a pod, whose maker would try again: the driver fails, the container is gone, and the message says so. */
async function podRunsOut(context: CaseContext): Promise<void> {
  const { env, machine, record } = context;
  await Pods.use(env, async (pods) => {
    const { checkpointId, state } = await podCheckpoint(context, pods, MIB);
    const hog = await startHog(context, 'at a restore');
    const minors = machine.gpus.slice(0, 1).map(({ minor }) => minor);
    const pod = await pods.start('short', restoreFrom(checkpointId));
    const refusal = await startApp(context, pod, { minors }).then(
      () => 'it was made',
      (error: unknown) => errorText(error),
    );
    record('refusal', refusal);
    assert(/was not restored from \S+: GpuOutOfMemory: .*OUT_OF_MEMORY/.test(refusal), `it says why: ${refusal}`);
    await hog.release();
    const next = await pods.start('next', restoreFrom(checkpointId));
    await assertRestored(context, next, await startApp(context, next, { minors }), state);
  });
}

const real = (name: string, run: Case['run']): Case => ({ name, needs: 'gpu', real: true, timeoutMs: 240_000, run });

export const OUT_OF_MEMORY_CASES: readonly Case[] = [
  real('gpu-out-of-memory-again', triedAgain),
  real('gpu-out-of-memory-stays', staysFull),
  real('gpu-pod-out-of-memory', podRunsOut),
  real('gpu-pod-no-room', podWithoutRoom),
];

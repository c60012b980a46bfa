/*
 * What is killed or cancelled in the middle: the worker alone (its runner goes on), the worker with the runner and CRIU
 * (the next worker undoes, or without one the freeze guard), a restore. Afterwards no process is locked, and every program goes on with its memory.
 */
import type { RunnerStep } from '../../../core/phases.ts';
import type { Case, CaseContext } from '../case.ts';
import { assert, assertEqual, until } from '../environment.ts';
import { startVram } from '../gpu-container.ts';
import { assertGoesOn, killOperationOf, untilStep, untilUnlocked } from '../gpu-state.ts';

/** Enough that each step lasts long enough to be met. */
const MIB = 3072;
const RECOVERY_MS = 90_000;
const TIMEOUTS = { timeouts: { heartbeatMs: 3000 } } as const;

interface Moment {
  readonly name: string;
  readonly step: RunnerStep;
  readonly state: 'begin' | 'done';
}

const MOMENTS: readonly Moment[] = [
  { name: 'locking', step: 'gpu-locking', state: 'begin' },
  { name: 'saved', step: 'gpu-saved', state: 'done' },
  { name: 'dump', step: 'frozen', state: 'done' },
  { name: 'restoring', step: 'gpu-restoring', state: 'begin' },
];

/** @returns completed, or the words of the failure */
async function outcomeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'completed',
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
}

/** The runner, a process of its own, goes on; the next worker takes it over, and the checkpoint completes. */
function workerKilled({ step, state: when }: Moment): Case['run'] {
  return async (context) => {
    const { env, record } = context;
    const { id, state } = await startVram(context, [MIB]);
    const handle = await env.startCheckpoint(id, TIMEOUTS);
    await untilStep(context, id, step, when);
    const killed = performance.now();
    await env.killNodeWorker();
    // As its unit or pod would: between two steps, nobody but the next worker asks the runner for the next one.
    await env.startWorkers();
    assertEqual((await handle.result()).source, 'running', 'source');
    record('secondsToResult', (performance.now() - killed) / 1000);
    await assertGoesOn(context, id, state);
    await env.remove(id);
    const restored = await env.restore(handle.checkpointId, 'killed-back');
    await assertGoesOn(context, restored.id, state);
  };
}

/** Nothing is left of the operation but its journal: the next worker lets the program go. */
function allKilled({ step, state: when }: Moment): Case['run'] {
  return async (context) => {
    const { env, record } = context;
    const { id, state } = await startVram(context, [MIB]);
    const handle = await env.startCheckpoint(id, TIMEOUTS);
    await untilStep(context, id, step, when);
    const killed = env.killNodeWorker();
    killOperationOf(env, id);
    await killed;
    await env.startWorkers();
    const started = performance.now();
    await untilUnlocked(context, id, RECOVERY_MS);
    record('secondsAfterStart', (performance.now() - started) / 1000);
    record('outcome', await outcomeOf(handle.result()));
    await assertGoesOn(context, id, state);
    assert(!(await env.isFrozen(id)), 'the container is thawed');
    // It can be captured like any other.
    await env.checkpoint(id);
    await assertGoesOn(context, id, state);
  };
}

/** No worker comes back: the freeze guard alone lets the program go. */
function guarded({ step, state: when }: Moment): Case['run'] {
  return async (context) => {
    const { env, record } = context;
    const { id, state } = await startVram(context, [MIB]);
    const handle = await env.startCheckpoint(id, TIMEOUTS);
    await untilStep(context, id, step, when);
    const killed = performance.now();
    const dead = env.killNodeWorker();
    killOperationOf(env, id);
    await dead;
    await untilUnlocked(context, id, RECOVERY_MS);
    record('secondsToUnlock', (performance.now() - killed) / 1000);
    assert(!(await env.isFrozen(id)), 'the container is thawed');
    await assertGoesOn(context, id, state);
    await env.startWorkers();
    record('outcome', await outcomeOf(handle.result()));
    await env.checkpoint(id);
    await assertGoesOn(context, id, state);
  };
}

function cancelled({ step, state: when }: Moment): Case['run'] {
  return async (context) => {
    const { env, record } = context;
    const { id, state } = await startVram(context, [MIB]);
    const handle = await env.startCheckpoint(id);
    await untilStep(context, id, step, when);
    await handle.cancel();
    record('outcome', await outcomeOf(handle.result()));
    await untilUnlocked(context, id, RECOVERY_MS);
    assert(!(await env.isFrozen(id)), 'the container is thawed');
    await assertGoesOn(context, id, state);
  };
}

/** The worker, whose agent restores the GPU, dies in the middle: the restore is made again, or fails as a whole. */
async function killedInRestore(context: CaseContext): Promise<void> {
  const { env, record } = context;
  const { id, state } = await startVram(context, [MIB]);
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const handle = await env.startRestore(checkpointId, 'restore-killed', TIMEOUTS);
  await until('the runtime to restore', 60_000, async () => (await handle.progress())?.phase === 'restoring', 5);
  await env.killNodeWorker();
  await env.startWorkers();
  const outcome = await outcomeOf(handle.result());
  record('outcome', outcome);
  const back = outcome === 'completed' ? handle.id : (await env.restore(checkpointId, 'restored-again')).id;
  await assertGoesOn(context, back, state);
}

const gpu = (name: string, run: Case['run']): Case => ({ name, needs: 'gpu', timeoutMs: 240_000, run });

export const KILLED_CASES: readonly Case[] = [
  ...MOMENTS.map((moment) => gpu(`gpu-worker-killed-${moment.name}`, workerKilled(moment))),
  ...MOMENTS.map((moment) => gpu(`gpu-all-killed-${moment.name}`, allKilled(moment))),
  ...MOMENTS.map((moment) => gpu(`gpu-guard-${moment.name}`, guarded(moment))),
  ...MOMENTS.slice(0, 3).map((moment) => gpu(`gpu-cancelled-${moment.name}`, cancelled(moment))),
  gpu('gpu-killed-in-restore', killedInRestore),
];

/* CUDA programs in containers, through the real workflows. Every program checks all of its GPU memory in each tick. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';

import type { Case, CaseContext } from '../case.ts';
import { assert, assertEqual, BUSYBOX, PYTHON } from '../environment.ts';
import { gpuFlags, startVram, vramState, workDir } from '../gpu-container.ts';
import { assertGoesOn, errorType, recordCheckpoint, recordRestore } from '../gpu-state.ts';

async function starts(context: CaseContext): Promise<void> {
  const { id, state } = await startVram(context, [256]);
  assert(state.bad === 0 && state.file === state.path, `it is right from the start: ${JSON.stringify(state)}`);
  await assertGoesOn(context, id, state);
}

async function resumes(context: CaseContext): Promise<void> {
  const { id, state } = await startVram(context, [1024]);
  const result = await context.env.checkpoint(id);
  assertEqual(result.source, 'running', 'source');
  await assertGoesOn(context, id, state);
  recordCheckpoint(context, 'checkpoint', result);
}

/** The proof of three tokens: GPU memory, CPU memory, a file of the layer, in a container made anew. */
async function stopsAndRestores(context: CaseContext): Promise<void> {
  const { env } = context;
  const { id, state } = await startVram(context, [1024]);
  const result = await env.checkpoint(id, { after: 'stop' });
  assertEqual(result.source, 'stopped', 'source');
  await env.remove(id);
  const restored = await env.restore(result.checkpointId, 'vram-back');
  await assertGoesOn(context, restored.id, state);
  recordCheckpoint(context, 'checkpoint', result);
  recordRestore(context, 'restore', restored);
}

async function throughStore(context: CaseContext): Promise<void> {
  const { env } = context;
  const { id, state } = await startVram(context, [256]);
  const { checkpointId } = await env.checkpoint(id, { durability: 'verified' });
  await env.remove(id);
  rmSync(join(env.stateDir, 'checkpoints', `checkpoint-${checkpointId}`), { recursive: true });
  const restored = await env.restore(checkpointId, 'vram-back');
  assertEqual(restored.from, 'store', 'from');
  await assertGoesOn(context, restored.id, state);
}

/** Checkpoint, restore, checkpoint, restore. */
async function again(context: CaseContext): Promise<void> {
  const { env } = context;
  const { id: first, state } = await startVram(context, [256]);
  let id = first;
  for (let round = 1; round <= 3; round += 1) {
    const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
    await env.remove(id);
    const restored = await env.restore(checkpointId, 'again');
    id = restored.id;
    await assertGoesOn(context, id, state);
    recordRestore(context, `round${round}`, restored);
  }
}

/** One checkpoint, two containers of it at the same time on the same GPU, which then have a life of their own. */
async function cloned(context: CaseContext): Promise<void> {
  const { env } = context;
  const { id, state } = await startVram(context, [256]);
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const both = await Promise.all([env.restore(checkpointId, 'clone-a'), env.restore(checkpointId, 'clone-b')]);
  for (const clone of both) {
    await assertGoesOn(context, clone.id, state);
  }
  const [left, right] = both.map((clone) => clone.id);
  await env.remove(String(left));
  await assertGoesOn(context, String(right), state);
}

async function twoProcesses(context: CaseContext): Promise<void> {
  const { env, machine } = context;
  const script = '/w/vram 512 name=one & /w/vram 768 name=two & wait';
  const id = await env.run('two', BUSYBOX, ['/bin/sh', '-c', script], gpuFlags(machine));
  const [one, two] = [await vramState(env, id, 'one'), await vramState(env, id, 'two')];
  const running = await env.checkpoint(id);
  await assertGoesOn(context, id, one, 'one');
  await assertGoesOn(context, id, two, 'two');
  recordCheckpoint(context, 'checkpoint', running, 2);
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const restored = await env.restore(checkpointId, 'two-back');
  await assertGoesOn(context, restored.id, one, 'one');
  await assertGoesOn(context, restored.id, two, 'two');
  recordRestore(context, 'restore', restored, 2);
}

/** The container's memory limit is below what the saved GPU memory takes: raised for the operation, then put back. */
async function memoryLimit(context: CaseContext): Promise<void> {
  const { env, record } = context;
  const limit = 640 * 2 ** 20;
  const { id, state } = await startVram(context, [1024], { flags: ['--memory-limit', String(limit)] });
  await env.checkpoint(id);
  await assertGoesOn(context, id, state);
  assertEqual(await env.memoryLimit(id), String(limit), 'memory limit after the checkpoint');
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const restored = await env.restore(checkpointId, 'limit-back');
  await assertGoesOn(context, restored.id, state);
  assertEqual(await env.memoryLimit(restored.id), String(limit), 'memory limit after the restore');
  record('limitMib', 640);
}

/** What the driver cannot save is refused by it, and the program goes on. */
async function managed(context: CaseContext): Promise<void> {
  const { id, state } = await startVram(context, [64, 'managed']);
  assertEqual(await errorType(context.env.checkpoint(id)), 'GpuUnsupported', 'error');
  await assertGoesOn(context, id, state);
}

/** A kernel that runs longer than the lock may wait. */
async function busy(context: CaseContext): Promise<void> {
  const { id, state } = await startVram(context, [64, 'spin=6000']);
  const started = performance.now();
  assertEqual(await errorType(context.env.checkpoint(id, { gpu: { lockTimeoutMs: 500 } })), 'GpuBusy', 'error');
  context.record('seconds', (performance.now() - started) / 1000);
  await assertGoesOn(context, id, state);
  await context.env.checkpoint(id, { gpu: { lockTimeoutMs: 20_000 } });
  await assertGoesOn(context, id, await vramState(context.env, id));
}

/** Another container holds memory of the same GPU. */
async function shared(context: CaseContext): Promise<void> {
  const { env } = context;
  const { id, state } = await startVram(context, [256]);
  const neighbour = await startVram(context, [256]);
  assertEqual(await errorType(env.checkpoint(id)), 'Incompatible', 'error');
  await assertGoesOn(context, id, state);
  await env.checkpoint(id, { gpu: { allowShared: true } });
  await assertGoesOn(context, id, state);
  await assertGoesOn(context, neighbour.id, neighbour.state);
}

async function rehearsed(context: CaseContext): Promise<void> {
  const { env, record } = context;
  const { id, state } = await startVram(context, [1024]);
  const result = await env.rehearse(id);
  record('rehearsal', result);
  assertEqual(result.gpuProcesses, 1, 'GPU processes');
  await assertGoesOn(context, id, state);
}

/** By containerd's own call, under our runtime: the agent does the GPU's part. */
async function throughCtr(context: CaseContext): Promise<void> {
  const { env } = context;
  const flags = ['--runtime', 'io.containerd.runc.kybernate.v1'];
  const { id, state } = await startVram(context, [256], { flags });
  const images = env.scratchDir('ctr');
  await env.ctr('tasks', 'checkpoint', '--image-path', join(images, 'criu'), '--work-path', join(images, 'work'), id);
  await assertGoesOn(context, id, state);
}

/** The program is told before the lock and after the unlock, in the container. */
async function hooked(context: CaseContext): Promise<void> {
  const { env } = context;
  const { id, state } = await startVram(context, [256]);
  const shell = (script: string): { command: string[] } => ({ command: ['/bin/sh', '-c', script] });
  const gpu = { quiesce: shell('echo quiesced >> /tmp/hooks'), resume: shell('echo resumed >> /tmp/hooks') };
  await env.checkpoint(id, { gpu });
  await assertGoesOn(context, id, state);
  assertEqual(await env.read(id, '/tmp/hooks'), 'quiesced\nresumed\n', 'hooks');
}

/** Its image and specification know nothing of a driver: our runtime gives it devices, rules and libraries. */
async function coldStart(context: CaseContext): Promise<void> {
  const { env, machine } = context;
  const visible = `NVIDIA_VISIBLE_DEVICES=${machine.gpus[0]?.uuid}`;
  const work = `type=bind,src=${workDir()},dst=/w,options=bind:ro:rprivate`;
  const flags = ['--runtime', 'io.containerd.runc.kybernate.v1', '--env', visible, '--mount', work];
  const id = await env.run('cold', PYTHON, ['/usr/bin/python3', '/w/src/driver-api.py', '256'], flags);
  const state = await vramState(env, id);
  await env.checkpoint(id);
  await assertGoesOn(context, id, state);
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const restored = await env.restore(checkpointId, 'cold-back');
  await assertGoesOn(context, restored.id, state);
  recordRestore(context, 'restore', restored);
}

const gpu = (name: string, run: Case['run'], timeoutMs = 90_000): Case => ({ name, needs: 'gpu', timeoutMs, run });
/** Only a driver can say no. */
const realGpu = (name: string, run: Case['run'], timeoutMs = 90_000): Case => ({
  ...gpu(name, run, timeoutMs),
  real: true,
});

export const CUDA_CASES: readonly Case[] = [
  gpu('gpu-container', starts),
  gpu('gpu-resume', resumes),
  gpu('gpu-stop-restore', stopsAndRestores),
  gpu('gpu-through-store', throughStore),
  gpu('gpu-again', again, 120_000),
  gpu('gpu-clone', cloned),
  gpu('gpu-two-processes', twoProcesses),
  realGpu('gpu-memory-limit', memoryLimit),
  realGpu('gpu-managed', managed),
  realGpu('gpu-busy', busy),
  realGpu('gpu-shared', shared),
  realGpu('gpu-rehearse', rehearsed),
  gpu('gpu-ctr-checkpoint', throughCtr),
  realGpu('gpu-hooks', hooked),
  realGpu('gpu-cold-start', coldStart),
];

/*
 * Containers of pods whose restore is started by whoever makes the container, as kubelet does: the wrapper asks the agent
 * (PrepareRestore), restores, and has the GPU state brought back (CompleteRestore). The pods are ctr's (pod.ts); all else is real.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { type Case, type CaseContext, errorText } from '../case.ts';
import { assert, assertEqual, BUSYBOX, type Environment, PYTHON } from '../environment.ts';
import { gpuFlags, vramState, type VramState, workDir } from '../gpu-container.ts';
import { assertGoesOn, assertUnlocked, recordCheckpoint } from '../gpu-state.ts';
import { APP, type Pod, POD_NAMESPACE, Pods, RUNTIME } from '../pod.ts';
import { devicesOf, twoGpus } from './two-gpus.ts';

const MIB = 1024;
/** What a restore of that much takes is at least this many times 5 ms. */
const HELD_BEATS = 20;
/** Enough of CUDA to be looked at from outside, none of its device nodes but those that all GPUs share. */
const NO_GPUS = { minors: [] } as const;

export const restoreFrom = (checkpointId: string): Readonly<Record<string, string>> => ({
  'kybernate.io/restore-from': checkpointId,
});

/** Starts the container `app` of a pod. @param given minors of device nodes in its specification */
export async function startApp(
  { env, machine }: CaseContext,
  pod: Pod,
  { minors, variables = [] }: { readonly minors: readonly number[]; readonly variables?: readonly string[] },
  mib = MIB,
): Promise<string> {
  const flags = gpuFlags(machine, { minors, variables, flags: pod.flags });
  return env.run(`app-${pod.name}`, BUSYBOX, ['/w/vram', String(mib)], flags);
}

/** A pod with a GPU process, checkpointed by the pod's name and gone. */
export async function podCheckpoint(
  context: CaseContext,
  pods: Pods,
  mib = MIB,
): Promise<{ readonly checkpointId: string; readonly state: VramState }> {
  const { env, machine } = context;
  const pod = await pods.start('source');
  const minors = machine.gpus.slice(0, 1).map(({ minor }) => minor);
  const id = await startApp(context, pod, { minors }, mib);
  const state = await vramState(env, id);
  const container = { pod: { namespace: POD_NAMESPACE, name: pod.name, container: APP }, namespace: 'default' };
  const result = await env.checkpoint(id, { container, after: 'stop' });
  recordCheckpoint(context, 'checkpoint', result);
  await env.remove(id);
  return { checkpointId: result.checkpointId, state };
}

function outcomeOf(env: Environment, pod: Pod): string {
  const file = join(env.runDir, 'pod-starts', `${pod.uid}.${APP}.outcome`);
  return (JSON.parse(readFileSync(file, 'utf8')) as { how: string }).how;
}

/** The state of before, by a restore and not by a new start, in a pod whose sandbox was left alone. */
export async function assertRestored(context: CaseContext, pod: Pod, id: string, state: VramState): Promise<void> {
  const { env, machine, record } = context;
  assertEqual(outcomeOf(env, pod), 'restored', 'how the pod was started');
  await assertGoesOn(context, id, state);
  const held = await env.readJson<{ gapMs: number; beats: number }>(id, '/tmp/state-held.json');
  record(`held in ${pod.name}`, held);
  if (machine.gpus.length > 0) {
    assert(held.beats >= HELD_BEATS, `CPU threads ran ${held.beats} times before the first CUDA call came back`);
  }
}

/** Words of ctr's failure. */
async function refusalOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (failure: unknown) => failure,
  );
  assert(error !== undefined, 'the container is not made');
  return errorText(error);
}

/** Kubelet says which GPU the pod has. CPU threads run before the GPU is back, CUDA calls wait for it. */
async function restored(context: CaseContext): Promise<void> {
  const { env, machine } = context;
  await Pods.use(env, async (pods) => {
    const { checkpointId, state } = await podCheckpoint(context, pods);
    const [gpu] = machine.gpus;
    const target = await pods.start('target', restoreFrom(checkpointId));
    await pods.giveDevices(target.name, gpu === undefined ? [] : [gpu.uuid]);
    const begun = performance.now();
    const id = await startApp(context, target, NO_GPUS);
    context.record('createMs', Math.round(performance.now() - begun));
    await assertRestored(context, target, id, state);
    // It is one like any other from now on, and the first of its kind to be taken over by the next pod.
    const container = { pod: { namespace: POD_NAMESPACE, name: target.name, container: APP }, namespace: 'default' };
    const again = await env.checkpoint(id, { container });
    await assertGoesOn(context, id, state);
    const next = await pods.start('next', restoreFrom(again.checkpointId));
    await env.remove(id);
    await pods.giveDevices(next.name, gpu === undefined ? [] : [gpu.uuid]);
    await assertRestored(context, next, await startApp(context, next, NO_GPUS), state);
  });
}

/** What a user can write counts only where the node's owner says so. */
async function byEnvironment(context: CaseContext): Promise<void> {
  const { env, machine } = context;
  await Pods.use(env, async (pods) => {
    const { checkpointId, state } = await podCheckpoint(context, pods);
    const named = { ...NO_GPUS, variables: [`NVIDIA_VISIBLE_DEVICES=${machine.gpus[0]?.uuid}`] };
    const refused = await pods.start('refused', restoreFrom(checkpointId));
    const reason = await refusalOf(startApp(context, refused, named));
    context.record('refusal', reason);
    assert(/gave the container app .* no GPU.*KYBERNATE_POD_GPUS_FROM_ENV/.test(reason), `it says why: ${reason}`);
    await env.withSettings({ KYBERNATE_POD_GPUS_FROM_ENV: 'allow' }, async () => {
      for (const [name, variable] of [
        ['named', named.variables[0]],
        ['all', 'NVIDIA_VISIBLE_DEVICES=all'],
      ] as const) {
        const pod = await pods.start(name, restoreFrom(checkpointId));
        const id = await startApp(context, pod, { ...NO_GPUS, variables: [String(variable)] });
        await assertRestored(context, pod, id, state);
        await env.remove(id);
      }
    });
  });
}

type Giving = 'device nodes' | 'kubelet' | 'environment';

/** The pod's GPU is another one than the checkpoint's: the map follows from what the pod was given. */
function moved(giving: Giving): Case['run'] {
  return async (context) => {
    const { env, machine } = context;
    const [, to] = twoGpus(machine);
    const move = async (pods: Pods): Promise<void> => {
      const { checkpointId, state } = await podCheckpoint(context, pods);
      const pod = await pods.start('moved', restoreFrom(checkpointId));
      if (giving === 'kubelet') {
        await pods.giveDevices(pod.name, [to.uuid]);
      }
      const id = await startApp(context, pod, {
        minors: giving === 'device nodes' ? [to.minor] : [],
        variables: giving === 'environment' ? [`NVIDIA_VISIBLE_DEVICES=${to.uuid}`] : [],
      });
      await assertRestored(context, pod, id, state);
      assertEqual(await devicesOf(context, id), [to.uuid], 'device after');
    };
    const settings = giving === 'environment' ? { KYBERNATE_POD_GPUS_FROM_ENV: 'allow' } : undefined;
    await Pods.use(env, (pods) =>
      settings === undefined ? move(pods) : env.withSettings(settings, async () => move(pods)),
    );
  };
}

const GPU_NODE = /^nvidia\d+$/;

/** GPUs of the node that a container can open. */
async function gpuNodesOf(env: Environment, id: string): Promise<string[]> {
  return readdirSync(await env.path(id, '/dev'))
    .filter((name) => GPU_NODE.test(name))
    .sort();
}

/** Asks for every GPU by the variable that CUDA images set by themselves. */
async function allGpus(context: CaseContext): Promise<void> {
  const { env, machine } = context;
  const work = ['--mount', `type=bind,src=${workDir()},dst=/w,options=bind:ro:rprivate`];
  const all = ['--env', 'NVIDIA_VISIBLE_DEVICES=all'];
  const command = ['/usr/bin/python3', '/w/src/driver-api.py', '64'];
  const every = machine.gpus.map(({ minor }) => `nvidia${minor}`).sort();
  const id = await env.run('all', PYTHON, command, [...RUNTIME, ...all, ...work]);
  const state = await vramState(env, id);
  assertEqual(await gpuNodesOf(env, id), every, 'GPUs of a container beside pods');
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const back = await env.restore(checkpointId, 'all-back');
  await assertGoesOn(context, back.id, state);
  await assertUnlocked(context, back.id);
}

const gpu = (name: string, run: Case['run']): Case => ({ name, needs: 'gpu', timeoutMs: 180_000, run });
const realGpu = (name: string, run: Case['run']): Case => ({ ...gpu(name, run), real: true });
const two = (name: string, run: Case['run']): Case => ({ ...realGpu(name, run), needs: 'two-gpus' });

export const POD_CASES: readonly Case[] = [
  gpu('gpu-pod-restored', restored),
  realGpu('gpu-pod-by-environment', byEnvironment),
  realGpu('gpu-all-cold', allGpus),
  two('gpus-pod-moved-by-nodes', moved('device nodes')),
  two('gpus-pod-moved-by-kubelet', moved('kubelet')),
  two('gpus-pod-moved-by-environment', moved('environment')),
];

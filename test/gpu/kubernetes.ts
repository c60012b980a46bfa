/*
 * unshare --net node test/gpu/kubernetes.ts [--keep]: a Kubernetes cluster of this machine (cgroup v2 on most that have a
 * GPU) with the chart on it, and pods whose GPUs the kubelet gives out. Without a GPU the same pods use host memory, to try
 * out the cases. Each prints one JSON line; all go to $OUT/kubernetes-results.json. Started by
 * `test/gpu/run.sh --kubernetes`, which unpacks what this needs.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import type { CheckpointResult } from '../../core/contract/checkpoint.ts';
import { BUSYBOX_IMAGE, PYTHON_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import { runCliJson } from '../harness/run-cli.ts';
import { type Cluster, startCluster } from '../kubernetes/cluster.ts';
import { chartValues, explain, installChart, NAMESPACE, TEMPORAL_VARIABLES } from '../kubernetes/install.ts';
import { type PodManifest, podManifest, Pods } from '../kubernetes/pods.ts';
import { errorText } from './case.ts';
import { offerGpus, RESOURCE } from './device-plugin.ts';
import { assert, assertEqual, until } from './environment.ts';
import { buildWorkloads, type VramState, workDir } from './gpu-container.ts';
import { gpuDriver } from './gpu-state.ts';
import { describeMachine, type Machine } from './machine.ts';

interface Context {
  readonly cluster: Cluster;
  readonly pods: Pods;
  readonly machine: Machine;
  readonly record: (name: string, value: unknown) => void;
}

type Annotations = Readonly<Record<string, string>>;
const began = performance.now();
const RESTORE_FROM = 'kybernate.io/restore-from';

function note(text: string): void {
  console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(7)}  ${text}`);
}

function checkpoint({ cluster }: Context, pod: string): Promise<CheckpointResult> {
  return runCliJson(TEMPORAL_VARIABLES, 'checkpoint', '--node', cluster.node, '--pod', `default/${pod}/app`);
}

async function secondsOf<T>(work: Promise<T>): Promise<number> {
  const begin = performance.now();
  await work;
  return Math.round(performance.now() - begin) / 1000;
}

function redis(name: string, annotations: Annotations = {}): PodManifest {
  const probes = {
    readinessProbe: { exec: { command: ['redis-cli', 'ping'] }, periodSeconds: 1, timeoutSeconds: 5 },
    livenessProbe: { tcpSocket: { port: 6379 }, periodSeconds: 2, failureThreshold: 3 },
  };
  const serve = 'cd /data; exec redis-server --save "" --protected-mode no';
  return podManifest(name, serve, { image: REDIS_IMAGE, ...probes }, { annotations });
}

/** Holds GPU memory by the driver, which our runtime gives it; the kubelet says which GPU. */
function gpuPod({ machine }: Context, name: string, annotations: Annotations = {}, gpus = 1): PodManifest {
  const hasGpu = machine.gpus.length > 0;
  const container = {
    image: PYTHON_IMAGE,
    command: hasGpu ? ['/usr/bin/python3', '/w/src/driver-api.py', '512'] : ['/w/vram', '64'],
    volumeMounts: [{ name: 'w', mountPath: '/w', readOnly: true }],
    ...(hasGpu && gpus > 0 ? { resources: { limits: { [RESOURCE]: gpus } } } : {}),
  };
  const pod = podManifest(name, '', container, { annotations, runtimeClass: 'kybernate-gpu' });
  const spec = pod['spec'] as object;
  return { ...pod, spec: { ...spec, volumes: [{ name: 'w', hostPath: { path: workDir() } }] } };
}

async function stateOf({ pods }: Context, name: string): Promise<VramState> {
  const text = await until(`state of ${name}`, 60_000, () =>
    pods.exec(name, 'cat /tmp/state.json').catch(() => undefined),
  );
  const state = JSON.parse(text) as VramState;
  assert(state.failed === undefined, `the workload in ${name} works: ${state.failed}`);
  return state;
}

/** The tokens are those of before, all GPU memory is right, and it ticks on. */
async function assertGoesOn(context: Context, name: string, since: VramState): Promise<void> {
  const { tick: _before, ...before } = since;
  await until(`${name} to tick on`, 60_000, async () => {
    const { tick, ...now } = await stateOf(context, name);
    assertEqual(now, before, `state of ${name}`);
    return tick > since.tick + 3;
  });
}

/** GPUs on which a pod's container has memory. Its nodes in /dev tell nothing: the driver's library makes all of them. */
async function gpusOf({ cluster, pods, machine }: Context, name: string): Promise<string[]> {
  const ids = await pods.containerIds(name);
  const listed = await Promise.all(ids.map((id) => cluster.containerd.ctrOk(['-n', 'k8s.io', 'tasks', 'ps', id])));
  const pids = new Set(listed.join('\n').match(/^\d+/gm)?.map(Number));
  const used = gpuDriver(machine)?.memoryInUse() ?? [];
  return used.filter(({ hostPid }) => pids.has(hostPid)).map(({ uuid }) => uuid);
}

function recordFreeze({ record }: Context, { freezeMs, phases }: CheckpointResult): void {
  record('freezeMs', freezeMs);
  record('gpuPauseMs', phases.gpuPauseMs);
}

/** Memory, files, address and probes; with a program run in it by the kubelet meanwhile. */
async function cpuPods(context: Context): Promise<void> {
  const { cluster, pods, record } = context;
  const [a, b] = ['redis-a', 'redis-b'];
  await pods.run(redis(a));
  await pods.untilReady(a);
  await pods.exec(a, 'redis-cli set token in-memory; echo in-a-file >/data/token');
  const beside = pods.exec(a, 'sleep 12; echo ended');
  await until('the program beside', 20_000, async () => (await pods.exec(a, 'ps')).includes('sleep 12'));
  const result = await checkpoint(context, a);
  recordFreeze(context, result);
  assertEqual(await beside, 'ended', 'the program that was run in the pod during its checkpoint');
  await pods.exec(a, 'redis-cli set token changed-later');
  await pods.run(redis(b, { [RESTORE_FROM]: result.checkpointId }));
  record('readySeconds', await secondsOf(pods.untilReady(b)));
  assertEqual(await pods.exec(b, 'redis-cli get token; cat /data/token; hostname'), `in-memory\nin-a-file\n${b}`, b);
  const worker = ['-l', 'app.kubernetes.io/component=node'];
  const under = checkpoint(context, a);
  await cluster.kubectl(['-n', NAMESPACE, 'delete', 'pod', ...worker, '--wait=false']);
  await under;
  await cluster.kubectl(['-n', NAMESPACE, 'rollout', 'status', 'daemonset/kybernate-node', '--timeout=120s']);
  assertEqual(await pods.exec(a, 'redis-cli get token'), 'changed-later', 'token of the source');
  for (const name of [a, b]) {
    assertEqual((await pods.get(name)).status.containerStatuses?.[0]?.restartCount, 0, `restarts of ${name}`);
  }
}

/** The source runs on and goes; another pod is given its GPU and goes on where it was. */
async function sameGpu(context: Context): Promise<void> {
  const { pods, record } = context;
  const [a, b] = ['gpu-a', 'gpu-b'];
  await pods.run(gpuPod(context, a));
  const state = await stateOf(context, a);
  const result = await checkpoint(context, a);
  recordFreeze(context, result);
  await assertGoesOn(context, a, state);
  await pods.remove(a);
  await pods.run(gpuPod(context, b, { [RESTORE_FROM]: result.checkpointId }));
  record('readySeconds', await secondsOf(pods.untilReady(b)));
  await assertGoesOn(context, b, state);
  record('gpus', await gpusOf(context, b));
  // Once more, of what was restored.
  await checkpoint(context, b);
  await assertGoesOn(context, b, state);
}

/** Source and restored pod at once: the kubelet gives another GPU, and the map follows it. */
async function otherGpu(context: Context): Promise<void> {
  const { pods, record } = context;
  const [a, b] = ['gpu-c', 'gpu-d'];
  await pods.run(gpuPod(context, a));
  const state = await stateOf(context, a);
  const { checkpointId } = await checkpoint(context, a);
  await pods.run(gpuPod(context, b, { [RESTORE_FROM]: checkpointId }));
  await pods.untilReady(b);
  await assertGoesOn(context, b, state);
  await assertGoesOn(context, a, state);
  const [of, on] = [await gpusOf(context, a), await gpusOf(context, b)];
  record('gpus', { of, on });
  assert(
    of.length === 1 && on.length === 1 && of[0] !== on[0],
    `they have one GPU each: ${of.join()} and ${on.join()}`,
  );
}

/** The kubelet gave it no GPU: refused before anything is brought, and the source runs on. */
async function noGpu(context: Context): Promise<void> {
  const { cluster, pods, record } = context;
  const [a, b] = ['gpu-e', 'gpu-f'];
  await pods.run(gpuPod(context, a));
  const state = await stateOf(context, a);
  const { checkpointId } = await checkpoint(context, a);
  await pods.run(gpuPod(context, b, { [RESTORE_FROM]: checkpointId }, 0));
  const message = await until('what kubelet says of it', 60_000, async () => {
    const text = await cluster.kubectl(['get', 'events', '--field-selector', `involvedObject.name=${b}`, '-o', 'json']);
    const { items } = JSON.parse(text) as { items: Array<{ message: string }> };
    return items.map((item) => item.message).find((said) => said.includes('was not restored'));
  });
  record('message', message);
  assert(message.includes('no GPU: request nvidia.com/gpu'), `the reason is told: ${message}`);
  await assertGoesOn(context, a, state);
}

const CASES: ReadonlyArray<{ name: string; gpus: number; run: (context: Context) => Promise<void> }> = [
  { name: 'kubernetes-pods', gpus: 0, run: cpuPods },
  { name: 'kubernetes-gpu-pod', gpus: 0, run: sameGpu },
  { name: 'kubernetes-no-gpu', gpus: 1, run: noGpu },
  { name: 'kubernetes-other-gpu', gpus: 2, run: otherGpu },
];

async function runCase(
  { name, run }: (typeof CASES)[number],
  parts: Omit<Context, 'record'>,
): Promise<Record<string, unknown>> {
  const facts: Record<string, unknown> = {};
  let error: string | undefined;
  const begin = performance.now();
  try {
    await run({ ...parts, record: (key, value) => void (facts[key] = value) });
  } catch (failure) {
    error = errorText(failure);
    note(await explain(parts.cluster));
    note(await parts.cluster.kubectl(['describe', 'pods']));
  }
  await parts.pods.removeAll();
  const seconds = Math.round(performance.now() - begin) / 1000;
  return { name, passed: error === undefined, seconds, ...(error === undefined ? {} : { error }), facts };
}

const { keep } = parseArgs({ options: { keep: { type: 'boolean', default: false } } }).values;
const machine = describeMachine();
note(JSON.stringify(machine));
buildWorkloads(machine);
const cluster = await startCluster();
note('the cluster is up');
const results: Record<string, unknown>[] = [];
let plugin: { close(): void } | undefined;
let broke = false;
try {
  plugin = await offerGpus(machine.gpus.map(({ uuid }) => uuid));
  await cluster.importImages([BUSYBOX_IMAGE, PYTHON_IMAGE, REDIS_IMAGE]);
  const libraries = ['KYBERNATE_LIBCUDA', 'KYBERNATE_LIBNVML'].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  await installChart(cluster, chartValues(cluster, Object.fromEntries(libraries)));
  note('the chart is installed');
  const outDir = process.env['OUT'] ?? 'out';
  mkdirSync(outDir, { recursive: true });
  for (const one of CASES.filter(({ gpus }) => gpus <= machine.gpus.length)) {
    note(`${one.name} ...`);
    results.push(await runCase(one, { cluster, pods: new Pods(cluster), machine }));
    console.log(JSON.stringify(results.at(-1)));
    const text = JSON.stringify({ at: new Date().toISOString(), machine, results }, undefined, 2);
    writeFileSync(join(outDir, 'kubernetes-results.json'), `${text}\n`);
  }
} catch (error) {
  broke = true;
  note(errorText(error));
} finally {
  if (!keep) {
    plugin?.close();
    await cluster.close();
  }
}
const failed = results.filter(({ passed }) => passed !== true);
console.log(`${results.length - failed.length} passed, ${failed.length} failed`);
process.exit(!broke && failed.length === 0 ? 0 : 1);

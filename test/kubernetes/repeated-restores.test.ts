/* One checkpoint, pod after pod: each has the state of the source, and the node is as before when they are gone. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { REDIS_IMAGE } from '../harness/images.ts';
import { runCliJson } from '../harness/run-cli.ts';
import { times } from '../harness/soak.ts';
import type { Cluster } from './cluster.ts';
import { hostPaths, TEMPORAL_VARIABLES } from './install.ts';
import { LASTING_S, newTraces, nodeTraces, nodeWorkerBytes, type NodeTraces } from './node-traces.ts';
import { podManifest, Pods } from './pods.ts';
import { theCluster } from './provided.ts';

const PODS = Math.max(3, times(100));
const SETTLED_MS = 90_000;
const MIB = 1024 ** 2;
/** What a process of Node varies by, however many pods there were. */
const GROWTH_MIB = 96;
const SERVE = 'cd /data; exec redis-server --save "" --protected-mode no';
const REDIS = {
  image: REDIS_IMAGE,
  readinessProbe: { exec: { command: ['redis-cli', 'ping'] }, periodSeconds: 1, timeoutSeconds: 5 },
};

let cluster: Cluster;
let pods: Pods;
/** ids of restored containers */
const made: string[] = [];

beforeAll(() => {
  cluster = theCluster();
  pods = new Pods(cluster);
});

afterAll(() => pods.removeAll());

/** What only a restored one says; then it is changed, so that the next one cannot have it from this one. */
async function restoredTokens(checkpointId: string, name: string): Promise<string> {
  const annotations = { 'kybernate.io/restore-from': checkpointId };
  await pods.run(podManifest(name, SERVE, REDIS, { annotations }));
  await pods.untilReady(name);
  const found = await pods.exec(name, 'redis-cli get token; cat /data/token; hostname');
  await pods.exec(name, `redis-cli set token of-${name}; echo of-${name} >/data/token`);
  const restarts = (await pods.get(name)).status.containerStatuses?.[0]?.restartCount;
  made.push(...(await pods.containerIds(name)));
  await pods.remove(name);
  return `${found}\n${restarts}`;
}

it(`${PODS} pods that are restored one after the other from one checkpoint are right, and leave nothing on the node`, async () => {
  const source = await pods.run(podManifest('often-a', SERVE, REDIS));
  await pods.untilReady(source);
  await pods.exec(source, 'redis-cli set token of-the-source; echo of-the-source >/data/token');
  const target = ['--node', cluster.node, '--pod', `default/${source}/app`];
  const { checkpointId } = await runCliJson<{ checkpointId: string }>(TEMPORAL_VARIABLES, 'checkpoint', ...target);
  await pods.remove(source);
  const signature = join(hostPaths(cluster).stateDir, 'checkpoints', `checkpoint-${checkpointId}`, OWN_FILES.signature);
  expect(existsSync(signature)).toBe(true);
  // The first one brings along what is made once.
  const wanted = (name: string): string => `of-the-source\nof-the-source\n${name}\n0`;
  expect(await restoredTokens(checkpointId, 'often-1')).toBe(wanted('often-1'));
  const before = await nodeTraces(cluster, 0);
  const memoryBefore = nodeWorkerBytes(cluster) / MIB;
  const begun = performance.now();

  const wrong: string[] = [];
  for (let count = 2; count <= PODS; count += 1) {
    const name = `often-${count}`;
    const found = await restoredTokens(checkpointId, name);
    if (found !== wanted(name)) {
      wrong.push(`${name}: ${found}`);
    }
  }

  const seconds = (performance.now() - begun) / 1000 / (PODS - 1);
  const memory = nodeWorkerBytes(cluster) / MIB;
  console.log(
    `${seconds.toFixed(1)} s a pod; node worker ${memoryBefore.toFixed(0)} MiB before, ${memory.toFixed(0)} MiB after ${PODS}`,
  );
  expect(wrong).toEqual([]);
  expect(memory - memoryBefore).toBeLessThan(GROWTH_MIB);
  expect(await leftSince(before)).toEqual({});
  expect(made.filter((id) => existsSync(`/run/containerd/runc/k8s.io/${id}`))).toEqual([]);
}, 1_800_000);

/** The kubelet removes what pods have left by and by. @returns what it has not, in the end */
async function leftSince(before: NodeTraces): Promise<NodeTraces> {
  const until = performance.now() + SETTLED_MS;
  for (;;) {
    const left = newTraces(before, await nodeTraces(cluster, LASTING_S));
    if (Object.keys(left).length === 0 || performance.now() > until) {
      return left;
    }
    await sleep(500);
  }
}

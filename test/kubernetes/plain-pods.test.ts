/* Pods that ask for nothing, under the RuntimeClass of Kybernate, on a real kubelet. */
import { existsSync, statSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Cluster } from './cluster.ts';
import { podManifest, Pods } from './pods.ts';
import { theCluster } from './provided.ts';

let cluster: Cluster;
let pods: Pods;

beforeAll(() => {
  cluster = theCluster();
  pods = new Pods(cluster);
});

afterAll(() => pods.removeAll());

describe('a pod under the RuntimeClass kybernate', () => {
  it('runs with logs, exec, probes and an address of its own, and ends with its exit code', async () => {
    const serve =
      'echo started; httpd -p 8080 -h /tmp; touch /tmp/index.html; while [ ! -e /end ]; do sleep 0.1; done; exit 7';
    const probe = { httpGet: { path: '/index.html', port: 8080 }, periodSeconds: 1 };
    const name = await pods.run(podManifest('plain', serve, { readinessProbe: probe, livenessProbe: probe }));

    await pods.untilReady(name);

    expect(await cluster.kubectl(['logs', name])).toBe('started\n');
    expect(await pods.exec(name, 'hostname')).toBe(name);
    const { status } = await pods.get(name);
    expect(status.podIP).toMatch(/^10\.124\.0\./);
    await pods.exec(name, 'touch /end');
    expect(await pods.untilTerminated(name)).toBe(7);
  });

  it('is checkpointed by the kubelet itself, and runs on', async () => {
    const name = await pods.run(
      podManifest('kubelet-checkpoint', 'i=0; while :; do i=$((i+1)); echo $i >/tmp/n; sleep 0.1; done'),
    );
    await pods.untilReady(name);

    const answer = JSON.parse(await cluster.askKubelet('POST', `/checkpoint/default/${name}/app`)) as {
      items: string[];
    };

    const [archive = ''] = answer.items;
    expect(statSync(archive).size).toBeGreaterThan(100_000);
    const before = Number(await pods.exec(name, 'cat /tmp/n'));
    await pods.until(async () => Number(await pods.exec(name, 'cat /tmp/n')) > before);
  });

  it('leaves nothing of its own when it is removed', async () => {
    const name = await pods.run(podManifest('gone', 'sleep 1000'));
    await pods.untilReady(name);
    const ids = await pods.containerIds(name);

    await pods.remove(name);

    expect(ids.length).toBeGreaterThan(0);
    expect(ids.filter((id) => existsSync(`/run/containerd/runc/k8s.io/${id}`))).toEqual([]);
  });
});

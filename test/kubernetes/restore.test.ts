/* The whole way on a real cluster: pod A is checkpointed, pod B starts from it, while parts of the node are restarted. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { REDIS_IMAGE } from '../harness/images.ts';
import { runCliJson } from '../harness/run-cli.ts';
import type { Cluster } from './cluster.ts';
import { NAMESPACE, RELEASE, TEMPORAL_VARIABLES } from './install.ts';
import { podManifest, Pods } from './pods.ts';
import { theCluster } from './provided.ts';

const READINESS = { exec: { command: ['redis-cli', 'ping'] }, periodSeconds: 1, timeoutSeconds: 5 };
const LIVENESS = { tcpSocket: { port: 6379 }, periodSeconds: 2, failureThreshold: 3 };

let cluster: Cluster;
let pods: Pods;

/** A redis with probes. @param restoreFrom id of a checkpoint */
function redis(name: string, restoreFrom?: string) {
  const annotations = restoreFrom === undefined ? {} : { 'kybernate.io/restore-from': restoreFrom };
  const container = { image: REDIS_IMAGE, readinessProbe: READINESS, livenessProbe: LIVENESS };
  const serve = 'cd /data; exec redis-server --save "" --protected-mode no';
  return podManifest(name, serve, container, { annotations });
}

function checkpoint(pod: string): Promise<{ checkpointId: string; freezeMs: number; source: string }> {
  const flags = ['--node', cluster.node, '--pod', `default/${pod}/app`];
  return runCliJson(TEMPORAL_VARIABLES, 'checkpoint', ...flags);
}

/** A token in memory and one in a file of the writable layer. */
async function leaveTokens(pod: string, token: string): Promise<void> {
  await pods.exec(pod, `redis-cli set token ${token}; echo ${token} >/data/token`);
}

async function tokensOf(pod: string): Promise<string> {
  return pods.exec(pod, 'redis-cli get token; cat /data/token');
}

/** Seconds that redis has run, as it counts itself: a fresh one starts at 0. */
async function uptime(pod: string): Promise<number> {
  return Number(/uptime_in_seconds:(\d+)/.exec(await pods.exec(pod, 'redis-cli info server'))?.[1]);
}

beforeAll(() => {
  cluster = theCluster();
  pods = new Pods(cluster);
});

afterAll(() => pods.removeAll());

describe('a pod that names a checkpoint', () => {
  it('has its memory and files, an address and a name of its own, and its probes are green', async () => {
    const a = await pods.run(redis('redis-a'));
    await pods.untilReady(a);
    await leaveTokens(a, 'first-token');
    const { checkpointId, source } = await checkpoint(a);
    expect(source).toBe('running');
    await pods.exec(a, 'redis-cli set token changed-later');
    const upOfSource = await uptime(a);

    const b = await pods.run(redis('redis-b', checkpointId));
    await pods.untilReady(b);

    expect(await tokensOf(b)).toBe('first-token\nfirst-token');
    expect(await uptime(b)).toBeGreaterThanOrEqual(upOfSource - 10);
    expect(await pods.exec(b, 'hostname')).toBe(b);
    const [before, after] = [await pods.get(a), await pods.get(b)];
    expect(after.status.podIP).not.toBe(before.status.podIP);
    expect(await pods.exec(b, 'grep -c "$(hostname)" /etc/hosts')).not.toBe('0');
    expect(await tokensOf(a)).toBe('changed-later\nfirst-token');
  });

  it('is as right after kubelet, containerd and the node worker have been restarted', async () => {
    const { checkpointId } = await checkpoint('redis-a');
    await cluster.restartKubelet();
    await cluster.restartContainerd();
    const daemonSet = `daemonset/${RELEASE}-node`;
    await cluster.kubectl(['-n', NAMESPACE, 'rollout', 'restart', daemonSet]);
    await cluster.kubectl(['-n', NAMESPACE, 'rollout', 'status', daemonSet, '--timeout=120s']);
    // The restored one has been probed all the time.
    for (const name of ['redis-a', 'redis-b']) {
      await pods.untilReady(name);
      expect((await pods.get(name)).status.containerStatuses?.[0]?.restartCount).toBe(0);
    }
    expect(await tokensOf('redis-b')).toBe('first-token\nfirst-token');

    const c = await pods.run(redis('redis-c', checkpointId));
    await pods.untilReady(c);

    expect(await tokensOf(c)).toBe('changed-later\nfirst-token');
    await pods.remove(c);
  });

  it('survives a checkpoint that is under way while the node worker is replaced', async () => {
    const under = checkpoint('redis-a');
    await cluster.kubectl(['-n', NAMESPACE, 'delete', 'pod', '-l', 'app.kubernetes.io/component=node', '--wait=false']);

    const { checkpointId } = await under;

    expect(await tokensOf('redis-a')).toBe('changed-later\nfirst-token');
    await cluster.kubectl(['-n', NAMESPACE, 'rollout', 'status', `daemonset/${RELEASE}-node`, '--timeout=120s']);
    const d = await pods.run(redis('redis-d', checkpointId));
    await pods.untilReady(d);
    expect(await tokensOf(d)).toBe('changed-later\nfirst-token');
  });
});

/* Checkpoint and Restore objects on a real cluster, handled by the operator of the chart. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { waitFor } from '../../cli/dev/wait.ts';
import { REDIS_IMAGE } from '../harness/images.ts';
import { type Cluster, NODE } from './cluster.ts';
import { hostPaths, NAMESPACE, RELEASE } from './install.ts';
import { podManifest, Pods, type PodStatus } from './pods.ts';
import { theCluster } from './provided.ts';

let cluster: Cluster;
let pods: Pods;

interface Status {
  readonly phase?: string;
  readonly checkpointId?: string;
  readonly container?: string;
  readonly how?: string;
  readonly conditions?: ReadonlyArray<{ readonly reason: string; readonly message: string }>;
}

beforeAll(() => {
  cluster = theCluster();
  pods = new Pods(cluster);
});

afterAll(async () => {
  await cluster.kubectl(['delete', 'restores,checkpoints', '--all', '--wait=true', '--timeout=60s']);
  await pods.removeAll();
});

function manifest(kind: 'Checkpoint' | 'Restore', name: string, spec: object): string {
  return JSON.stringify({ apiVersion: 'kybernate.io/v1alpha1', kind, metadata: { name }, spec });
}

function apply(kind: 'Checkpoint' | 'Restore', name: string, spec: object): Promise<string> {
  return cluster.kubectl(['apply', '-f', '-'], manifest(kind, name, spec));
}

async function statusOf(kind: 'checkpoint' | 'restore', name: string): Promise<Status> {
  const object = JSON.parse(await cluster.kubectl(['get', kind, name, '-o', 'json'])) as { status?: Status };
  return object.status ?? {};
}

async function untilOver(kind: 'checkpoint' | 'restore', name: string): Promise<Status> {
  let status: Status = {};
  await pods.until(async () => {
    status = await statusOf(kind, name);
    return ['Ready', 'Failed', 'Cancelled'].includes(status.phase ?? '');
  });
  return status;
}

/** As its users ask for it: containerd lets CRIU dump no TCP connection, and a probe has one at any moment. @returns its file */
async function checkpointOfKubelet(pod: string): Promise<string> {
  const [id = ''] = await pods.containerIds(pod);
  const log = join(cluster.paths.dir, 'state/io.containerd.runtime.v2.task/k8s.io', id, 'criu-dump.log');
  return waitFor('moment without a connection', 30_000, async () => {
    try {
      const answer = await cluster.askKubelet('POST', `/checkpoint/default/${pod}/app`);
      return (JSON.parse(answer) as { items: string[] }).items[0];
    } catch (error) {
      const said = existsSync(log) ? readFileSync(log, 'utf8') : '';
      if (!/Connected TCP socket|In-flight connection/.test(said)) {
        throw new Error(`${String(error)}\n${said.slice(-2000)}`, { cause: error });
      }
      return undefined;
    }
  });
}

function redis(name: string) {
  const probe = { tcpSocket: { port: 6379 }, periodSeconds: 1 };
  const serve = 'cd /data; exec redis-server --save "" --protected-mode no';
  const probes = { readinessProbe: probe, livenessProbe: { ...probe, periodSeconds: 10 } };
  return podManifest(name, serve, { image: REDIS_IMAGE, ...probes });
}

describe('a Checkpoint object', () => {
  it('becomes a checkpoint, and a Restore makes a pod of it that has its memory', async () => {
    const source = await pods.run(redis('operator-a'));
    await pods.untilReady(source);
    await pods.exec(source, 'redis-cli set token of-the-source');

    await apply('Checkpoint', 'first', { pod: source });
    const taken = await untilOver('checkpoint', 'first');
    expect(taken, JSON.stringify(taken)).toMatchObject({
      phase: 'Ready',
      checkpointId: expect.stringMatching(/^default-first-/),
    });
    await pods.exec(source, 'redis-cli set token changed-later');

    await apply('Restore', 'operator-b', { checkpoint: 'first' });
    const restored = await untilOver('restore', 'operator-b');
    expect(restored, JSON.stringify(restored)).toMatchObject({
      phase: 'Ready',
      how: 'restored',
      conditions: [{ reason: 'Restored' }],
    });

    expect(await pods.exec('operator-b', 'redis-cli get token')).toBe('of-the-source');
    expect(await pods.exec(source, 'redis-cli get token')).toBe('changed-later');
    await cluster.kubectl(['delete', 'restore', 'operator-b']);
    expect(await pods.exec('operator-b', 'redis-cli get token')).toBe('of-the-source');
    await cluster.kubectl(['delete', 'pod', 'operator-b', '--now']);
  });

  it('is refused when its freeze budget is longer than the liveness probe of its pod allows', async () => {
    await apply('Checkpoint', 'too-long', { pod: 'operator-a', freezeBudgetMs: 60_000 });

    expect(await untilOver('checkpoint', 'too-long')).toMatchObject({
      phase: 'Failed',
      conditions: [{ reason: 'Incompatible', message: expect.stringContaining('liveness probe allows 21000 ms') }],
    });
  });

  it('is made of what the kubelet has left of a pod, restored, and removed with its object', async () => {
    const archive = await checkpointOfKubelet('operator-a');
    await apply('Checkpoint', 'of-the-kubelet', { source: { node: NODE, archive }, deletionPolicy: 'Delete' });
    const taken = await untilOver('checkpoint', 'of-the-kubelet');
    expect(taken, JSON.stringify(taken)).toMatchObject({ phase: 'Ready', container: 'app' });
    const copy = join(hostPaths(cluster).stateDir, 'checkpoints', `checkpoint-${taken.checkpointId}`);
    expect(existsSync(copy)).toBe(true);

    // Nobody has signed what an engine other than ours has written.
    const annotations = { 'kybernate.io/unverified': 'true' };
    const template = { metadata: { annotations }, spec: redis('operator-c')['spec'] };
    await apply('Restore', 'operator-c', { checkpoint: 'of-the-kubelet', template });
    const restored = await untilOver('restore', 'operator-c');
    expect(restored, JSON.stringify(restored)).toMatchObject({ phase: 'Ready', how: 'restored' });
    expect(await pods.exec('operator-c', 'redis-cli get token')).toBe('changed-later');
    await cluster.kubectl(['delete', 'pod', 'operator-c', '--now']);

    await cluster.kubectl(['delete', 'checkpoint', 'of-the-kubelet', '--timeout=60s']);
    expect(existsSync(copy)).toBe(false);
  });

  it('that is not there starts its pod afresh under that policy, and the status says so', async () => {
    const template = { spec: redis('operator-d')['spec'] };
    await apply('Restore', 'operator-d', { checkpointId: 'never-taken', template, onFailure: 'cold-start' });

    const begun = await untilOver('restore', 'operator-d');

    expect(begun, JSON.stringify(begun)).toMatchObject({
      phase: 'Ready',
      how: 'cold-started',
      conditions: [{ reason: 'ColdStarted', message: expect.stringContaining('never-taken') }],
    });
    await cluster.kubectl(['delete', 'pod', 'operator-d', '--now']);
  });

  it('fails with the reason when its pod has no such container, and cannot be changed', async () => {
    await apply('Checkpoint', 'wrong', { pod: 'operator-a', container: 'nobody' });

    expect(await untilOver('checkpoint', 'wrong')).toMatchObject({
      phase: 'Failed',
      conditions: [{ reason: 'InvalidInput', message: expect.stringContaining('nobody') }],
    });
    await expect(apply('Checkpoint', 'wrong', { pod: 'operator-a', container: 'app' })).rejects.toThrow(
      'spec.container cannot be changed',
    );
  });
});

describe('two operators', () => {
  const deployment = `deployment/${RELEASE}-operator`;

  /** @returns the pod of the one that holds the lease; `undefined` while nobody does */
  async function leader(): Promise<string | undefined> {
    const path = 'jsonpath={.spec.holderIdentity}';
    const holder = await cluster.kubectl(['-n', NAMESPACE, 'get', 'lease', 'kybernate-operator', '-o', path]);
    return holder.split('_')[0] || undefined;
  }

  async function operators(): Promise<string[]> {
    const selector = 'app.kubernetes.io/component=operator';
    const found = await cluster.kubectl(['-n', NAMESPACE, 'get', 'pods', '-l', selector, '-o', 'json']);
    const { items } = JSON.parse(found) as { items: PodStatus[] };
    return items.flatMap(({ metadata }) => (metadata.deletionTimestamp === undefined ? metadata.name : []));
  }

  /** Its process is gone in the middle of whatever it does, and nobody starts it again. */
  async function kill(pod: string): Promise<void> {
    const cheap = 'controller.kubernetes.io/pod-deletion-cost=-1';
    await cluster.kubectl(['-n', NAMESPACE, 'annotate', 'pod', pod, cheap]);
    const path = 'jsonpath={.status.containerStatuses[0].containerID}';
    const id = await cluster.kubectl(['-n', NAMESPACE, 'get', 'pod', pod, '-o', path]);
    await cluster.containerd.ctrOk(['-n', 'k8s.io', 'tasks', 'kill', '-s', 'SIGKILL', id.replace('containerd://', '')]);
    await cluster.kubectl(['-n', NAMESPACE, 'scale', deployment, '--replicas=1']);
  }

  it('act one at a time: when the one that leads is killed, the other ends what it had begun', async () => {
    const [first = '', second = ''] = await operators();
    const leads = await leader();
    const waits = leads === first ? second : first;
    expect([first, second]).toContain(leads);
    const said = await Promise.all([first, second].map((pod) => cluster.kubectl(['-n', NAMESPACE, 'logs', pod])));
    expect(said.filter((log) => log.includes('this operator leads'))).toHaveLength(1);

    await apply('Checkpoint', 'begun', { pod: 'operator-a' });
    await pods.until(async () => (await statusOf('checkpoint', 'begun')).phase !== undefined);
    await kill(leads ?? '');
    await apply('Checkpoint', 'asked-of-nobody', { pod: 'operator-a' });
    expect((await statusOf('checkpoint', 'asked-of-nobody')).phase).toBeUndefined();

    for (const name of ['begun', 'asked-of-nobody']) {
      const over = await untilOver('checkpoint', name);
      expect(over, JSON.stringify(over)).toMatchObject({ phase: 'Ready' });
    }
    expect(await leader()).toBe(waits);
    await cluster.kubectl(['-n', NAMESPACE, 'scale', deployment, '--replicas=2']);
  });
});

describe('the policies', () => {
  it('refuse the annotation, and a Restore, to whoever may not restore', async () => {
    await cluster.kubectl(['create', 'serviceaccount', 'stranger']);
    await cluster.kubectl([
      'create',
      'rolebinding',
      'stranger',
      '--clusterrole=edit',
      '--serviceaccount=default:stranger',
    ]);
    await cluster.kubectl(['create', 'role', 'stranger', '--verb=create', '--resource=restores.kybernate.io']);
    await cluster.kubectl([
      'create',
      'rolebinding',
      'stranger-restores',
      '--role=stranger',
      '--serviceaccount=default:stranger',
    ]);
    const as = ['--as=system:serviceaccount:default:stranger'];
    const wish = podManifest('stolen', 'sleep 1', {}, { annotations: { 'kybernate.io/restore-from.app': 'first' } });

    await expect(cluster.kubectl(['create', ...as, '-f', '-'], JSON.stringify(wish))).rejects.toThrow(
      'may not restore',
    );
    const restore = manifest('Restore', 'stolen', { checkpoint: 'first' });
    await expect(cluster.kubectl(['create', ...as, '-f', '-'], restore)).rejects.toThrow('may not make restores');
    const kept = { 'kybernate.io/restore-from.app': 'first' };
    await pods.run(podManifest('kept', 'sleep 600', {}, { runtimeClass: '', annotations: kept }));
    await cluster.kubectl(['label', ...as, 'pod', 'kept', 'owner=somebody']);
    await expect(
      cluster.kubectl(['annotate', ...as, '--overwrite', 'pod', 'kept', 'kybernate.io/restore-from.app=second']),
    ).rejects.toThrow('may not restore');
    const path = podManifest('path', 'sleep 1', {}, { annotations: { 'kybernate.io/restore-from': '/etc' } });
    await expect(cluster.kubectl(['create', ...as, '-f', '-'], JSON.stringify(path))).rejects.toThrow('restore');
  });
});

/* The files of examples/kubernetes, as they are but for the names of places. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';

import { ROOT } from '../../tools/check-steps.ts';
import { PYTHON_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import type { Cluster } from './cluster.ts';
import { hostPaths, imagesDir, NAMESPACE } from './install.ts';
import { podManifest, type PodManifest, Pods } from './pods.ts';
import { theCluster } from './provided.ts';

const REDIS = { image: REDIS_IMAGE, readinessProbe: { exec: { command: ['redis-cli', 'ping'] }, periodSeconds: 1 } };
const SERVE = 'exec redis-server --save "" --protected-mode no';

let cluster: Cluster;
let pods: Pods;

beforeAll(() => {
  cluster = theCluster();
  pods = new Pods(cluster);
});

afterAll(() => pods.removeAll());

function textOf(name: string): string {
  return readFileSync(join(ROOT, 'examples/kubernetes', name), 'utf8');
}

function example(name: string, places: Readonly<Record<string, string>> = {}): PodManifest {
  const here = Object.entries(places).reduce((left, [place, ours]) => left.replaceAll(place, ours), textOf(name));
  return parse(here) as PodManifest;
}

describe('an example', () => {
  it('checkpoint keeps a pod for a restore by its object and for one by its id', async () => {
    await pods.untilReady(await pods.run(podManifest('cache-1', SERVE, REDIS)));
    await pods.exec('cache-1', 'redis-cli set token by-object');

    await cluster.kubectl(['apply', '-f', '-'], textOf('checkpoint.yaml'));
    await cluster.kubectl(['wait', '--for=condition=Ready', 'checkpoint/before-the-upgrade', '--timeout=60s']);
    await cluster.kubectl(['apply', '-f', '-'], textOf('restore.yaml'));
    const restores = ['restore/cache-2', 'restore/cache-3'];
    await cluster.kubectl(['wait', '--for=condition=Ready', ...restores, '--timeout=90s']);

    const how = await cluster.kubectl(['get', ...restores, '-o', 'jsonpath={.items[*].status.how}']);
    expect(how).toBe('restored restored');
    for (const name of ['cache-2', 'cache-3']) {
      expect(await pods.exec(name, 'redis-cli get token')).toBe('by-object');
      await pods.remove(name);
    }
    await cluster.kubectl(['delete', ...restores, 'checkpoint/before-the-upgrade', '--timeout=60s']);
  });

  it('offload-job ends a pod when its state is verified in the store, and another one goes on', async () => {
    await pods.untilReady(await pods.run(podManifest('notebook', SERVE, REDIS)));
    await pods.exec('notebook', 'redis-cli set token kept');

    await cluster.kubectl(['create', '-f', '-'], JSON.stringify(example('offload-job.yaml')));
    await cluster.kubectl(['wait', '--for=condition=Complete', 'job/offload', '--timeout=120s']);

    expect(await pods.untilTerminated('notebook')).toBeGreaterThan(0);
    const annotations = { 'kybernate.io/restore-from': 'nightly' };
    const next = await pods.run(podManifest('notebook-2', SERVE, REDIS, { annotations }));
    await pods.untilReady(next);
    expect(await pods.exec(next, 'redis-cli get token')).toBe('kept');
    await cluster.kubectl(['delete', 'job', 'offload', '--timeout=60s']);
  });

  it('restore-from-path starts a pod from what `ctr tasks checkpoint` has written', async () => {
    const source = await pods.run(podManifest('web', SERVE, REDIS));
    await pods.untilReady(source);
    await pods.exec(source, 'redis-cli set token by-path');
    const [id = ''] = await pods.containerIds(source);
    const images = join(imagesDir(cluster), 'web');
    await cluster.containerd.ctrOk(['-n', 'k8s.io', 'tasks', 'checkpoint', '--image-path', images, id]);

    const restored = await pods.run(example('restore-from-path.yaml', { '/srv/images/web': images }));
    await pods.untilReady(restored);

    expect(await pods.exec(restored, 'redis-cli get token')).toBe('by-path');
    expect(await pods.exec(source, 'redis-cli ping')).toBe('PONG');
  });

  it('own-artifacts sends what its application makes to the store, by a sidecar of its own, and any node gets it', async () => {
    const keys = await cluster.kubectl(['-n', NAMESPACE, 'get', 'secret', 's3-keys', '-o', 'json']);
    const { data } = JSON.parse(keys) as { data: object };
    const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 's3-keys' }, data };
    await cluster.kubectl(['create', '-f', '-'], JSON.stringify(secret));
    await cluster.importImages([PYTHON_IMAGE]);

    const name = await pods.run(example('own-artifacts.yaml'));
    await pods.until(async () => ['Succeeded', 'Failed'].includes((await pods.get(name)).status.phase ?? ''), 120_000);

    const lines = (await cluster.kubectl(['logs', name, '-c', 'app'])).trim().split('\n');
    const ends = lines.map((line) => JSON.parse(line) as { status: string; location: string; sha256: string });
    expect(ends, await cluster.kubectl(['logs', name, '-c', 'sidecar', '--tail=20'])).toMatchObject(
      [1, 2].map((step) => ({
        status: 'done',
        location: `s3://checkpoints/checkpoints/training-step-${step}/manifest.json`,
      })),
    );
    expect((await pods.get(name)).status.phase).toBe('Succeeded');
    const downloads = join(hostPaths(cluster).stateDir, 'sidecar/downloads/training');
    const fetch = ['kybernate', 'transfer', 'download', 'training-step-2', downloads];
    await cluster.kubectl(['-n', NAMESPACE, 'exec', 'daemonset/kybernate-sidecar', '--', ...fetch]);
    const weights = readFileSync(join(downloads, 'step-2/weights.bin'));
    expect(createHash('sha256').update(weights).digest('hex')).toBe(ends[1]?.sha256);
  });
});

/* The files of examples/kubernetes, as they are but for the names of places. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';

import { ROOT } from '../../tools/check-steps.ts';
import { REDIS_IMAGE } from '../harness/images.ts';
import type { Cluster } from './cluster.ts';
import { imagesDir } from './install.ts';
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

function example(name: string, places: Readonly<Record<string, string>> = {}): PodManifest {
  const text = readFileSync(join(ROOT, 'examples/kubernetes', name), 'utf8');
  const here = Object.entries(places).reduce((left, [place, ours]) => left.replaceAll(place, ours), text);
  return parse(here) as PodManifest;
}

describe('an example', () => {
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
});

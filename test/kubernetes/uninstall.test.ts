/* What `helm uninstall` leaves of us on a node: nothing, and the pods. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { CHART, helm, hostPaths, NAMESPACE, RELEASE, writeValues } from './install.ts';
import { podManifest, Pods } from './pods.ts';
import { theCluster } from './provided.ts';

it('the node is as before, a pod under our runtime runs on and can be deleted, and the chart can be installed again', async () => {
  const cluster = theCluster();
  const pods = new Pods(cluster);
  const name = await pods.run(podManifest('stays', 'while :; do sleep 0.2; done'));
  await pods.untilReady(name);
  const [id = ''] = await pods.containerIds(name);
  expect(readFileSync(cluster.paths.containerdConfig, 'utf8')).toContain('kybernate.toml');
  const keys = join(hostPaths(cluster).runDir, 'keys');
  expect(existsSync(join(keys, 'signing/signing.pem'))).toBe(true);

  await helm(cluster, ['uninstall', RELEASE, '--namespace', NAMESPACE, '--wait', '--timeout', '240s']);

  expect(readFileSync(cluster.paths.containerdConfig, 'utf8')).not.toContain('kybernate.toml');
  expect(readdirSync(hostPaths(cluster).installDir)).toEqual([]);
  expect(existsSync(keys)).toBe(false);
  expect(await cluster.containerd.ctrOk(['-n', 'k8s.io', 'tasks', 'ls'])).toMatch(new RegExp(`^${id} .*RUNNING`, 'm'));
  await pods.remove(name);
  const flags = ['--namespace', NAMESPACE, '--values', writeValues(cluster), '--wait', '--timeout', '240s'];
  await helm(cluster, ['install', RELEASE, CHART, ...flags]);
  await pods.untilReady(await pods.run(podManifest('again', 'sleep 1000')));
  await pods.removeAll();
});

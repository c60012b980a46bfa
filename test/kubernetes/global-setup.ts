/* One cluster for all files of the project, which run one after the other. */
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';

import { installRuntimes } from '../../cli/host/runtimes.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { RUNTIME_HANDLERS } from '../../shim/containerd-config.ts';
import { type Cluster, startCluster } from './cluster.ts';
import type { ClusterFacts } from './provided.ts';

let cluster: Cluster | undefined;

export async function setup(project: TestProject): Promise<void> {
  cluster = await startCluster();
  try {
    await addRuntimeClasses(cluster);
  } catch (error) {
    await cluster.close();
    throw error;
  }
  const facts: ClusterFacts = { paths: cluster.paths, token: cluster.token };
  project.provide('cluster', facts);
}

/** By the installer, from what this repository has. */
async function addRuntimeClasses({ paths, kubectl, restartCommand, containerd }: Cluster): Promise<void> {
  await installRuntimes({
    dir: join(paths.dir, 'kybernate'),
    containerdConfig: paths.containerdConfig,
    containerdAddress: containerd.address,
    hostRoot: '/',
    runc: requireProgram('runc', process.env),
    runDir: join(paths.dir, 'run'),
    restart: restartCommand,
    env: process.env,
    say: () => undefined,
  });
  for (const handler of RUNTIME_HANDLERS) {
    const runtimeClass = { apiVersion: 'node.k8s.io/v1', kind: 'RuntimeClass', metadata: { name: handler }, handler };
    await kubectl(['create', '-f', '-'], JSON.stringify(runtimeClass));
  }
}

export async function teardown(): Promise<void> {
  await cluster?.close();
}

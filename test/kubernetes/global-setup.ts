/* One cluster with the chart on it for all files of the project, which run one after the other. */
import type { TestProject } from 'vitest/node';

import { BUSYBOX_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import { type Cluster, startCluster } from './cluster.ts';
import { installChart } from './install.ts';
import type { ClusterFacts } from './provided.ts';

let cluster: Cluster | undefined;

export async function setup(project: TestProject): Promise<void> {
  cluster = await startCluster();
  try {
    await cluster.importImages([BUSYBOX_IMAGE, REDIS_IMAGE]);
    await installChart(cluster);
  } catch (error) {
    await cluster.close();
    cluster = undefined;
    throw error;
  }
  const facts: ClusterFacts = { paths: cluster.paths, token: cluster.token };
  project.provide('cluster', facts);
}

export async function teardown(): Promise<void> {
  await cluster?.close();
}

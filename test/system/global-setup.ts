/* For each lane of the project a private containerd with the test images, a Temporal server and an S3 server. */
import { basename } from 'node:path';
import type { TestProject } from 'vitest/node';

import { requireProgram } from '../../cli/setup/programs.ts';
import { importImages } from '../../cli/dev/images.ts';
import { openTestServers, type TestServers } from '../harness/dev-servers.ts';
import { BUSYBOX_IMAGE, PYTHON_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import type { LaneServers } from '../harness/provided.ts';

const opened: TestServers[] = [];

export async function setup(project: TestProject): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new Error('system tests need root: they run containers');
  }
  const lanes = project.config.maxWorkers;
  for (let lane = 0; lane < lanes; lane += 1) {
    opened.push(await openTestServers());
  }
  try {
    project.provide('lanes', await Promise.all(opened.map(startLane)));
  } catch (error) {
    await teardown();
    throw error;
  }
}

async function startLane(servers: TestServers): Promise<LaneServers> {
  const { runDir } = servers;
  // All containerds of a machine share runc's root below the namespace: two at once must not meet there.
  const namespace = basename(servers.dir).toLowerCase();
  const [temporal, containerd, s3] = await Promise.all([servers.temporal(), servers.containerd(), servers.s3()]);
  await importImages(containerd, namespace, [BUSYBOX_IMAGE, REDIS_IMAGE, PYTHON_IMAGE], process.env);
  const { address, dir, path } = containerd;
  const [runc = '', criu = '', ctr = ''] = (['runc', 'criu', 'ctr'] as const).map((name) =>
    requireProgram(name, process.env),
  );
  return { temporal, containerd: { address, dir, path, namespace, runDir }, s3, programs: { runc, criu, ctr } };
}

export async function teardown(): Promise<void> {
  await Promise.all(opened.splice(0).map((servers) => servers.close()));
}

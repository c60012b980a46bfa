/* A private containerd with the test images, a Temporal server and an S3 server for the whole run of the project. */
import { basename } from 'node:path';
import type { TestProject } from 'vitest/node';

import { requireProgram } from '../../cli/setup/programs.ts';
import { type ImageName, IMAGES, importImages } from '../../cli/dev/images.ts';
import { openTestServers, type TestServers } from '../harness/dev-servers.ts';
import '../harness/provided.ts';

let servers: TestServers | undefined;

export async function setup(project: TestProject): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new Error('system tests need root: they run containers');
  }
  servers = await openTestServers();
  const { runDir } = servers;
  // All containerds of a machine share runc's root below the namespace: two runs at once must not meet there.
  const namespace = basename(servers.dir).toLowerCase();
  try {
    const [temporal, containerd, s3] = await Promise.all([servers.temporal(), servers.containerd(), servers.s3()]);
    await importImages(containerd, namespace, Object.keys(IMAGES) as ImageName[], process.env);
    const { address, dir, path } = containerd;
    project.provide('temporal', temporal);
    project.provide('containerd', { address, dir, path, namespace, runDir });
    project.provide('s3', s3);
    const [runc, criu, ctr] = (['runc', 'criu', 'ctr'] as const).map((name) => requireProgram(name, process.env));
    project.provide('programs', { runc: runc ?? '', criu: criu ?? '', ctr: ctr ?? '' });
  } catch (error) {
    await servers.close();
    throw error;
  }
}

export async function teardown(): Promise<void> {
  await servers?.close();
}

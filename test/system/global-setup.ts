/* A private containerd with the test images, a Temporal server and an S3 server for the whole run of the project. */
import type { TestProject } from 'vitest/node';

import { requireProgram } from '../../cli/setup/programs.ts';
import { type ImageName, IMAGES, importImages } from '../../cli/dev/images.ts';
import { openTestServers, type TestServers } from '../harness/dev-servers.ts';
import '../harness/provided.ts';

const NAMESPACE = 'kyb-test';

let servers: TestServers | undefined;

export async function setup(project: TestProject): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new Error('system tests need root: they run containers');
  }
  servers = await openTestServers();
  const { runDir } = servers;
  try {
    const [temporal, containerd, s3] = await Promise.all([servers.temporal(), servers.containerd(), servers.s3()]);
    await importImages(containerd, NAMESPACE, Object.keys(IMAGES) as ImageName[], process.env);
    const { address, dir, path } = containerd;
    project.provide('temporal', temporal);
    project.provide('containerd', { address, dir, path, namespace: NAMESPACE, runDir });
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

/* A directory for the servers of each lane; lane.ts starts them, this ends them. */
import type { TestProject } from 'vitest/node';

import { openTestServers, type TestServers } from '../harness/dev-servers.ts';
import '../harness/provided.ts';

const opened: TestServers[] = [];

export async function setup(project: TestProject): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new Error('system tests need root: they run containers');
  }
  for (let lane = 0; lane < project.config.maxWorkers; lane += 1) {
    opened.push(await openTestServers());
  }
  project.provide(
    'lanes',
    opened.map(({ dir }) => dir),
  );
}

export async function teardown(): Promise<void> {
  await Promise.all(opened.splice(0).map((servers) => servers.close()));
}

/* One real Temporal server for the whole run of the project. */
import type { TestProject } from 'vitest/node';

import { openTestServers, type TestServers } from '../harness/dev-servers.ts';
import '../harness/provided.ts';

let servers: TestServers | undefined;

export async function setup(project: TestProject): Promise<void> {
  servers = await openTestServers();
  project.provide('temporal', await servers.temporal());
}

export async function teardown(): Promise<void> {
  await servers?.close();
}

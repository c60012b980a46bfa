/*
 * Real servers for a test run, below one mkdtemp directory, and their complete teardown. A run that was killed leaves
 * a directory whose owner is dead: the next run ends what it started and removes it.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Containerd } from '../../cli/dev/containerd-client.ts';
import { startContainerd, stopContainerd } from '../../cli/dev/containerd.ts';
import { isAlive, readDaemons, readProcStat, stopDaemon, stopOwned } from '../../cli/dev/process.ts';
import { type S3Server, startS3 } from '../../cli/dev/s3.ts';
import { startTemporal, type TemporalServer } from '../../cli/dev/temporal.ts';

const PREFIX = 'kyb-test-';
const OWNER_FILE = 'owner.json';

export interface TestServers {
  readonly dir: string;
  /** KYBERNATE_RUN_DIR for node workers: the shim's wrapper looks for the agent there */
  readonly runDir: string;
  temporal(): Promise<TemporalServer>;
  containerd(): Promise<Containerd>;
  s3(): Promise<S3Server>;
  /** Stops everything and removes the directory. */
  close(): Promise<void>;
}

async function closeDir(dir: string): Promise<void> {
  const daemons = readDaemons(dir).map((record) => record.name);
  if (daemons.includes('containerd')) {
    await stopContainerd(dir, process.env);
  }
  await Promise.all(daemons.map((name) => stopDaemon(dir, name)));
  await stopOwned(dir);
  rmSync(dir, { recursive: true, force: true });
}

/** Ends what killed runs left. A directory without an owner file is being made right now, or is not ours. */
async function sweepAbandoned(): Promise<void> {
  for (const name of readdirSync(tmpdir()).filter((entry) => entry.startsWith(PREFIX))) {
    const dir = join(tmpdir(), name);
    let owner: { pid: number; startTicks: string };
    try {
      owner = JSON.parse(readFileSync(join(dir, OWNER_FILE), 'utf8')) as typeof owner;
    } catch {
      continue;
    }
    if (!isAlive(owner)) {
      await closeDir(dir);
    }
  }
}

/** An empty set of servers; each starts on demand and lives until `close`. */
export async function openTestServers(): Promise<TestServers> {
  await sweepAbandoned();
  const dir = mkdtempSync(join(tmpdir(), PREFIX));
  const startTicks = readProcStat(process.pid)?.startTicks ?? '';
  writeFileSync(join(dir, OWNER_FILE), JSON.stringify({ pid: process.pid, startTicks }));
  return serversIn(dir);
}

/** Those of a directory that another process has opened, and will close. */
export function serversIn(dir: string): TestServers {
  const env = process.env;
  const runDir = join(dir, 'run');
  return {
    dir,
    runDir,
    temporal: () => startTemporal({ dir, env, inMemory: true }),
    containerd: () => startContainerd({ dir, env, runDir }),
    s3: () => startS3({ dir, env }),
    close: () => closeDir(dir),
  };
}

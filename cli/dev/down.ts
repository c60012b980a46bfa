/* Stops what `up` started, in the order that lets every part finish, and removes what it left on the machine. */
import { existsSync, readdirSync, rmSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';

import type { Env } from '../setup/programs.ts';
import { mountsBelow, unmountBelow } from './containerd-traces.ts';
import { stopContainerd } from './containerd.ts';
import { removeDevDefaults } from './defaults.ts';
import { devPaths } from './environment.ts';
import { withDevLock } from './lock.ts';
import { readDaemons, stopOwned } from './process.ts';
import { stopS3 } from './s3.ts';
import { stopTemporal } from './temporal.ts';
import { stopWorkers } from './workers.ts';

/** What `up` and the daemons make below the directory: anything else in it is the user's and stays. */
const RUNTIME = [
  'root',
  'state',
  'opt',
  'cni',
  'shim',
  'logs',
  'containerd.toml',
  'containerd.sock',
  'containerd.sock.ttrpc',
];
/** Temporal's histories, checkpoints and stores: what `--keep` keeps. */
const DATA = ['temporal.db', 'temporal.db-shm', 'temporal.db-wal', 'node', 'store', 's3'];

export interface DownResult {
  /** daemons that were recorded */
  readonly stopped: readonly string[];
  /** processes that had lost their record: shims, runners, children */
  readonly ended: number;
  /** mounts that could not be removed; empty when all is well */
  readonly stillMounted: readonly string[];
}

/**
 * Stops the dev environment; nothing happens when it is not up.
 * @param options.keepData leave histories and checkpoints for the next `up`
 */
export async function down(options: { env: Env; keepData?: boolean }): Promise<DownResult> {
  const { env } = options;
  const { dir, runDir } = devPaths(env);
  if (!existsSync(dir)) {
    return { stopped: [], ended: 0, stillMounted: [] };
  }
  const result = await withDevLock(dir, async () => {
    const stopped = readDaemons(dir).map((record) => record.name);
    removeDevDefaults(dir);
    await stopWorkers(dir);
    await stopContainerd(dir, env);
    await Promise.all([stopTemporal(dir), stopS3(dir)]);
    const ended = await stopOwned(dir);
    await Promise.all([unmountBelow(dir), unmountBelow(runDir)]);
    const stillMounted = [...mountsBelow(dir), ...mountsBelow(runDir)];
    // A mount that could not be removed may show somebody's data: nothing below it is deleted.
    if (stillMounted.length === 0) {
      rmSync(runDir, { recursive: true, force: true });
      for (const name of [...RUNTIME, ...(options.keepData === true ? [] : DATA)]) {
        rmSync(join(dir, name), { recursive: true, force: true });
      }
    }
    return { stopped, ended, stillMounted };
  });
  if (readdirSync(dir).length === 0) {
    rmdirSync(dir);
  }
  return result;
}

import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { findShims, mountsBelow } from '../../cli/dev/containerd-traces.ts';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { down } from '../../cli/dev/down.ts';
import { devPaths } from '../../cli/dev/environment.ts';
import { findDaemon, ownedProcesses, readDaemons } from '../../cli/dev/process.ts';
import { up } from '../../cli/dev/up.ts';
import { BUSYBOX_IMAGE } from '../harness/images.ts';

let parent: string;
let env: NodeJS.ProcessEnv;
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'kyb-up-'));
  env = { ...process.env, KYBERNATE_DEV_DIR: join(parent, 'dev') };
});
afterEach(async () => {
  await down({ env });
  rmSync(parent, { recursive: true });
});

function start(store: 'dir' | 's3' = 'dir') {
  // runc's root is shared by all containerds of a machine: a namespace of our own keeps ids apart.
  const namespace = parent.slice(-6).toLowerCase();
  return up({ env, node: 'node-up', store, images: [BUSYBOX_IMAGE], namespace });
}

/** What is left of the environment; all empty after `down`. */
function traces() {
  const { dir, runDir } = devPaths(env);
  return {
    directories: [dir, runDir].filter((path) => existsSync(path)),
    processes: ownedProcesses(dir),
    shims: findShims(join(dir, 'containerd.sock')),
    mounts: [...mountsBelow(dir), ...mountsBelow(runDir)],
    cgroups: existsSync('/sys/fs/cgroup/freezer')
      ? readdirSync('/sys/fs/cgroup/freezer').filter((name) => name === parent.slice(-6).toLowerCase())
      : [],
  };
}

const NOTHING = { directories: [], processes: [], shims: [], mounts: [], cgroups: [] };

test('up is idempotent, and starts again only what has ended', async () => {
  const first = await start();
  const before = readDaemons(first.paths.dir);
  const worker = findDaemon(first.paths.dir, 'worker-node');
  process.kill(worker?.pid ?? 0, 'SIGKILL');
  await expect.poll(() => findDaemon(first.paths.dir, 'worker-node')).toBeUndefined();

  const second = await start();

  const after = readDaemons(first.paths.dir);
  const changed = after.filter((record) => !before.some((other) => other.pid === record.pid));
  expect(changed.map((record) => record.name)).toEqual(['worker-node']);
  expect(second.variables).toEqual(first.variables);
});

test('another store restarts those who know it and keeps the rest', async () => {
  const first = await start();
  const before = readDaemons(first.paths.dir);

  const second = await start('s3');

  const kept = readDaemons(first.paths.dir).filter((record) => before.some((other) => other.pid === record.pid));
  expect(kept.map((record) => record.name).sort()).toEqual(['containerd', 'temporal', 'worker-node']);
  expect(second.variables['KYBERNATE_STORE']).toBe('s3://kybernate');
});

test('down leaves nothing of an environment with running and paused containers', async () => {
  const { containerd, variables } = await start('s3');
  const namespace = variables['CONTAINERD_NAMESPACE'] ?? '';
  const ctr = (...args: string[]) => containerd.ctrOk(['-n', namespace, ...args]);
  await ctr('run', '-d', '--null-io', BUSYBOX_IMAGE, 'runs', 'sleep', '1000');
  await ctr('run', '-d', '--null-io', BUSYBOX_IMAGE, 'stands', 'sleep', '1000');
  await ctr('tasks', 'pause', 'stands');

  const result = await down({ env });

  expect(result.stillMounted).toEqual([]);
  expect(traces()).toEqual(NOTHING);
});

test('down leaves nothing when containerd and the record of it are gone', async () => {
  const { containerd, paths, variables } = await start();
  const namespace = variables['CONTAINERD_NAMESPACE'] ?? '';
  const runtime = ['--runtime', 'io.containerd.runc.kybernate.v1'];
  const run = ['run', '-d', '--null-io', ...runtime, BUSYBOX_IMAGE, 'orphan', 'sleep', '1000'];
  await containerd.ctrOk(['-n', namespace, ...run]);
  process.kill(findDaemon(paths.dir, 'containerd')?.pid ?? 0, 'SIGKILL');
  rmSync(join(paths.dir, 'processes.json'));
  expect(findShims(containerd.address)).toHaveLength(1);

  await down({ env });

  expect(traces()).toEqual(NOTHING);
});

test('down with --keep leaves the data, and up finds it again', async () => {
  const first = await start();
  await first.containerd.ctrOk(['version']);

  await down({ env, keepData: true });
  const kept = readdirSync(first.paths.dir).sort();
  await start();

  expect(kept).toEqual(expect.arrayContaining(['node', 'store', 'temporal.db']));
  expect(kept).not.toContain('root');
  expect(openContainerd(first.paths.dir, env).address).toBe(first.containerd.address);
});

test('down without up is a no-op', async () => {
  expect(await down({ env })).toEqual({ stopped: [], ended: 0, stillMounted: [] });
});

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { endHalfRestored, type HalfRestored } from './restore-leftovers.ts';

let dir: string;
let tasks: ChildProcess[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-half-'));
  tasks = [];
});
afterEach(() => {
  tasks.forEach((task) => task.kill('SIGKILL'));
  rmSync(dir, { recursive: true });
});

/** A process by the name of `program`, in a cgroup that is a plain directory. */
function inGroup(group: string, program: string): ChildProcess {
  const file = join(dir, program);
  copyFileSync('/bin/sleep', file);
  const task = spawn(file, ['600'], { stdio: 'ignore' });
  tasks.push(task);
  const files = ['freezer', 'pids'].map((hierarchy) => join(dir, 'cgroup', hierarchy, group, 'cgroup.procs'));
  for (const procs of files) {
    mkdirSync(dirname(procs), { recursive: true });
    writeFileSync(procs, `${task.pid}\n`);
    task.once('exit', () => rmSync(procs, { force: true }));
  }
  return task;
}

async function end(more: Partial<HalfRestored> = {}): Promise<readonly number[]> {
  const container = { runcRoot: join(dir, 'runc'), id: 'web', cgroupsPath: '/default/web', ...more };
  return endHalfRestored(container, join(dir, 'cgroup'));
}

test('the task of a CRIU that is gone is ended', async () => {
  const task = inGroup('default/web', 'criu');

  const [ended] = await Promise.all([end(), once(task, 'exit')]);

  expect(ended).toEqual([task.pid]);
  expect(task.signalCode).toBe('SIGKILL');
});

test.each<[string, string, string, Partial<HalfRestored>]>([
  ['of a container that runs', 'default/web', 'sleeper', {}],
  ['of a cgroup with another name', 'default/shared', 'criu', { cgroupsPath: '/default/shared' }],
  ['of a path that leaves its place', 'web', 'criu', { cgroupsPath: '/x/../web' }],
  ['of another scope of systemd', 'a.slice/cri-other.scope', 'criu', { cgroupsPath: 'a.slice:cri:other' }],
  ['without a cgroup in the specification', 'default/web', 'criu', { cgroupsPath: undefined }],
])('a process %s is left alone', async (_what, group, program, more) => {
  const task = inGroup(group, program);

  expect(await end(more)).toEqual([]);
  expect([task.exitCode, task.signalCode]).toEqual([null, null]);
});

test('a container that runc knows is left to runc', async () => {
  mkdirSync(join(dir, 'runc/web'), { recursive: true });
  writeFileSync(join(dir, 'runc/web/state.json'), '{}');
  const task = inGroup('default/web', 'criu');

  expect(await end()).toEqual([]);
  expect(task.signalCode).toBeNull();
});

test('an empty cgroup goes, with what is below it', async () => {
  mkdirSync(join(dir, 'cgroup/pids/a.slice/a-b.slice/cri-web.scope/below'), { recursive: true });

  expect(await end({ cgroupsPath: 'a-b.slice:cri:web' })).toEqual([]);

  expect(existsSync(join(dir, 'cgroup/pids/a.slice/a-b.slice/cri-web.scope'))).toBe(false);
  expect(existsSync(join(dir, 'cgroup/pids/a.slice/a-b.slice'))).toBe(true);
});

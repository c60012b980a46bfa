import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { NodeDeps } from './node-deps.ts';
import { bundleInTheWay, bundleUsers, makersIn, removeDeadBundle } from './dead-bundle.ts';

const container = { namespace: 'default', id: 'c1' };

let dir: string;
let bundle: string;
let child: ChildProcess | undefined;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-bundle-'));
  bundle = join(dir, 'default/c1');
  mkdirSync(join(bundle, 'rootfs'), { recursive: true });
  writeFileSync(join(bundle, 'config.json'), '{}');
});

afterEach(() => {
  child?.kill('SIGKILL');
  child = undefined;
  rmSync(dir, { recursive: true, force: true });
});

function depsWith(task: object | undefined): Pick<NodeDeps, 'containerd' | 'run'> {
  return { containerd: { getTask: () => Promise.resolve(task) } } as unknown as NodeDeps;
}

async function workIn(cwd: string, args: readonly string[] = []): Promise<void> {
  child = spawn('sleep', ['60', ...args], { cwd, stdio: 'ignore' });
  await new Promise((resolve) => child?.once('spawn', resolve));
}

test('a bundle of no task in which nobody works is removed', async () => {
  expect(await removeDeadBundle(depsWith(undefined), container, bundle)).toBe(true);

  expect(existsSync(bundle)).toBe(false);
});

test('a bundle stays while a process works in it', async () => {
  await workIn(bundle);

  expect(bundleUsers(bundle)).toEqual([child?.pid]);
  expect(await removeDeadBundle(depsWith(undefined), container, bundle)).toBe(false);
  expect(existsSync(join(bundle, 'config.json'))).toBe(true);
});

test('who makes the container of a bundle is told by its arguments', async () => {
  child = spawn('sh', ['-c', 'sleep 60; :', 'runc', 'create', '--bundle', bundle, 'id'], { stdio: 'ignore' });
  await new Promise((resolve) => child?.once('spawn', resolve));

  expect(makersIn(bundle)).toEqual([child.pid]);
  expect(makersIn(dirname(bundle))).toEqual([]);
  expect(bundleUsers(bundle)).toEqual([child.pid]);
});

test('a bundle stays while containerd knows its task', async () => {
  expect(await removeDeadBundle(depsWith({ status: 'stopped', pid: 1 }), container, bundle)).toBe(false);

  expect(existsSync(join(bundle, 'config.json'))).toBe(true);
});

test('a root file system with files in it is never removed', async () => {
  writeFileSync(join(bundle, 'rootfs/file'), 'of the container');

  await expect(removeDeadBundle(depsWith(undefined), container, bundle)).rejects.toThrow(/cannot be removed/);

  expect(existsSync(join(bundle, 'rootfs/file'))).toBe(true);
});

test.each([
  ['of this container', 'mkdir /run/tasks/default/c1: file exists', '/run/tasks/default/c1'],
  ['of another container', 'mkdir /run/tasks/default/c2: file exists', undefined],
  ['of another namespace', 'mkdir /run/tasks/moby/c1: file exists', undefined],
  ['that is none', 'mkdir /run/tasks/default/c1: permission denied', undefined],
])('the bundle in the way is read of what containerd says: one %s', (_what, message, path) => {
  expect(bundleInTheWay(new Error(`tasks.v1.Tasks/Create: UNKNOWN: ${message}`), container)).toBe(path);
});

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, expect, test } from 'vitest';
import { listProcesses, processTree, readProcess } from './tree.ts';

let child: ChildProcess | undefined;
afterEach(() => {
  child?.kill('SIGKILL');
  child = undefined;
});

test('this process is read with its parent, its name and its start', () => {
  const self = readProcess(process.pid);

  expect(self).toMatchObject({ hostPid: process.pid, parentHostPid: process.ppid, tracerPid: 0 });
  expect(self?.uid).toBe(process.getuid?.());
  expect(self?.threads).toBeGreaterThan(1);
  expect(self?.startTime).toBeGreaterThan(0);
  expect(self?.state).toMatch(/^[RSD]$/);
});

test('a process that does not exist is undefined, and so is one that is reaped', async () => {
  child = spawn('sleep', ['30']);
  const pid = child.pid ?? 0;
  expect(readProcess(pid)?.command).toMatch(/sleep|node/);

  child.kill('SIGKILL');
  await once(child, 'exit');

  expect(readProcess(pid)).toBeUndefined();
  expect(readProcess(0x7fffffff)).toBeUndefined();
});

test('a name with brackets and spaces does not shift the fields', async () => {
  child = spawn('bash', ['-c', 'printf ") S 1 (x" > /proc/$$/comm; echo ready; read -r _'], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  await once(child.stdout ?? process.stdin, 'data');

  expect(readProcess(child.pid ?? 0)).toMatchObject({ command: ') S 1 (x', parentHostPid: process.pid });
});

test('a tree lists the root first and parents before children', async () => {
  child = spawn('bash', ['-c', '(sleep 30 & echo $!; wait) & wait'], {
    stdio: ['ignore', 'pipe', 'ignore'],
    detached: true,
  });
  const [chunk] = (await once(child.stdout ?? process.stdin, 'data')) as [Buffer];
  const root = child.pid ?? 0;
  const leaf = Number(chunk.toString());
  const middle = readProcess(leaf)?.parentHostPid ?? 0;

  const tree = processTree(root, [leaf, middle, root, 0x7fffffff]);

  expect(tree.map((process) => process.hostPid)).toEqual([root, middle, leaf]);
  process.kill(-root, 'SIGKILL');
});

test('processes outside of the tree follow it', () => {
  const tree = processTree(process.pid, [process.ppid, process.pid]);

  expect(tree.map((process) => process.hostPid)).toEqual([process.pid, process.ppid]);
});

test('all processes are listed with their arguments', () => {
  const self = listProcesses().find((candidate) => candidate.hostPid === process.pid);

  expect(self?.commandLine).not.toBe('');
});

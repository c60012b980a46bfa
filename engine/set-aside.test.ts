import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { readProcess } from '../native/proc/tree.ts';
import type { ContainerFacts } from './container-facts.ts';
import { enteredPids, setAside, takeBack } from './set-aside.ts';

const silent = (): void => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };

let dir: string;
let child: ChildProcess;
/** this process is the container's init, and its parent one that came in by exec */
let facts: ContainerFacts;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-aside-'));
  child = spawn('sleep', ['600'], { stdio: 'ignore' });
  const path = join(dir, 'container');
  mkdirSync(path);
  writeFileSync(join(path, 'cgroup.procs'), [process.pid, child.pid, process.ppid].join('\n'));
  const init = { ...readProcess(process.pid), entered: false };
  facts = { freezer: { version: 1, path }, processes: [init], initHostPid: process.pid } as unknown as ContainerFacts;
});

afterEach(() => {
  child.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

it('what is not below init came in by exec, also when it came after the plan', () => {
  expect(enteredPids(facts)).toEqual([process.ppid]);
});

it('what came in by exec is moved into a group beside the container’s', () => {
  setAside({ operationId: 'a'.repeat(32), facts }, log);

  expect(readFileSync(join(dir, `kybernate-aside-${'a'.repeat(16)}`, 'cgroup.procs'), 'utf8')).toBe(
    String(process.ppid),
  );
});

it('nothing is made where nobody came in, nor for a tree of processes', async () => {
  const operationId = 'b'.repeat(32);
  writeFileSync(join(dir, 'container', 'cgroup.procs'), `${process.pid}\n`);
  const tree = { ...facts, freezer: { version: 'signals' } } as unknown as ContainerFacts;

  setAside({ operationId, facts }, log);
  setAside({ operationId, facts: tree }, log);
  await takeBack({ operationId, facts: tree }, log);

  expect(existsSync(join(dir, `kybernate-aside-${'b'.repeat(16)}`))).toBe(false);
});

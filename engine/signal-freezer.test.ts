import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { descendantPids, readProcess } from '../native/proc/tree.ts';
import { freezerState, freezeNow, thaw } from './freezer.ts';
import type { SignalFreezer } from './signal-freezer.ts';

let dir: string;
let root: ChildProcess;
let freezer: SignalFreezer;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-signals-'));
  root = spawn('sh', ['-c', 'sleep 600 & sleep 600 & wait'], { stdio: 'ignore' });
  const rootHostPid = Number(root.pid);
  await until(() => descendantPids(rootHostPid).length === 3);
  const rootStartTime = readProcess(rootHostPid)?.startTime ?? 0;
  freezer = { version: 'signals', path: join(dir, 'stopped.json'), rootHostPid, rootStartTime };
});
afterEach(() => {
  for (const pid of descendantPids(Number(root.pid)).reverse()) {
    process.kill(pid, 'SIGKILL');
  }
  rmSync(dir, { recursive: true });
});

const states = (): string[] => descendantPids(freezer.rootHostPid).map((pid) => readProcess(pid)?.state ?? '');

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries += 1) {
    expect(tries).toBeLessThan(1000);
    await sleep(5);
  }
}

test('the whole tree stops, and goes on; whom its user had stopped stays so', async () => {
  const [, , own = 0] = descendantPids(freezer.rootHostPid);
  process.kill(own, 'SIGSTOP');
  await until(() => readProcess(own)?.state === 'T');
  expect(freezerState(freezer)).toBe('thawed');

  freezeNow(freezer);
  freezeNow(freezer);
  await until(() => states().every((state) => state === 'T'));
  expect(freezerState(freezer)).toBe('frozen');
  await thaw(freezer);

  await until(() => states().filter((state) => state === 'T').length === 1);
  expect(readProcess(own)?.state).toBe('T');
  expect(freezerState(freezer)).toBe('thawed');
  expect(existsSync(freezer.path)).toBe(false);
});

test('whom its user had stopped before, which a tracer hides, is neither stopped nor continued', async () => {
  const [, , own = 0] = descendantPids(freezer.rootHostPid);
  const startTime = readProcess(own)?.startTime ?? 0;
  const traced = { ...freezer, stoppedBefore: [{ hostPid: own, startTime }] };

  freezeNow(traced);
  await until(() => states().filter((state) => state === 'T').length === 2);
  expect(readProcess(own)?.state).toBe('S');
  process.kill(own, 'SIGSTOP');
  await until(() => readProcess(own)?.state === 'T');
  await thaw(traced);

  await until(() => states().filter((state) => state === 'T').length === 1);
  expect(readProcess(own)?.state).toBe('T');
});

test('a pid that is another process by now is not touched', async () => {
  const other = { ...freezer, rootStartTime: freezer.rootStartTime + 1 };

  freezeNow(other);
  await thaw(other);

  expect(freezerState(other)).toBe('gone');
  expect(states()).not.toContain('T');
});

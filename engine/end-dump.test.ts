import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, copyFileSync, mkdirSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runExeca } from '../native/run/run-execa.ts';
import { endDump } from './end-dump.ts';
import type { OperationPlan } from './operation.ts';

let dir = '';
const children: ChildProcess[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-end-dump-'));
  mkdirSync(join(dir, 'checkpoint-a/criu'), { recursive: true });
  mkdirSync(join(dir, 'checkpoint-b/criu'), { recursive: true });
  copyFileSync('/bin/sleep', join(dir, 'criu'));
});
afterEach(() => {
  children.splice(0).forEach((child) => child.kill('SIGKILL'));
  rmSync(dir, { recursive: true, force: true });
});

/** Named as CRIU is, with the image directory open, and without the runc that had started it. */
async function startOrphan(images: string, ...args: readonly string[]): Promise<ChildProcess> {
  const fd = openSync(images, 'r');
  const child = spawn(join(dir, 'criu'), args, { stdio: ['ignore', 'ignore', 'ignore', fd] });
  await once(child, 'spawn');
  closeSync(fd);
  children.push(child);
  return child;
}

function planOf(checkpoint: string): OperationPlan {
  // Its freezer is gone, and no cgroup of the operation was ever made.
  const facts = { freezer: { version: 1, path: join(dir, 'no-cgroup') } };
  const plan = { engine: 'containerd', operationId: '0'.repeat(32), checkpointDir: join(dir, checkpoint), facts };
  return plan as unknown as OperationPlan;
}

test('the half of CRIU that goes on without its parents is ended by its images, that of another dump is not', async () => {
  const ours = await startOrphan(join(dir, 'checkpoint-a/criu'), '60');
  const theirs = await startOrphan(join(dir, 'checkpoint-b/criu'), '60');
  const ended = once(ours, 'exit');
  const killed = await endDump(planOf('checkpoint-a'), runExeca);

  expect(killed).toEqual([ours.pid]);
  expect(await ended).toEqual([null, 'SIGKILL']);
  expect(theirs.exitCode ?? theirs.signalCode).toBeNull();
});

test('a CRIU that is at work gets more time than one that waits', async () => {
  copyFileSync('/bin/sh', join(dir, 'criu'));
  const busy = await startOrphan(join(dir, 'checkpoint-a/criu'), '-c', 'while :; do :; done');
  const begun = performance.now();

  const killed = await endDump(planOf('checkpoint-a'), runExeca);

  expect(killed).toEqual([busy.pid]);
  expect(performance.now() - begun).toBeGreaterThan(1500);
});

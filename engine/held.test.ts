import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readProcess } from '../native/proc/tree.ts';
import { runExeca } from '../native/run/run-execa.ts';
import { freezerState } from './freezer.ts';
import { Held } from './held.ts';
import type { OperationPlan } from './operation.ts';

const silent = (): void => undefined;
const deps = {
  run: runExeca,
  gpu: () => ({ reason: 'none' }),
  log: { debug: silent, info: silent, warn: silent, error: silent },
};

let dir: string;
let workload: ChildProcess;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-held-'));
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
});
afterEach(async () => {
  workload.kill('SIGKILL');
  await once(workload, 'close');
  rmSync(dir, { recursive: true });
});

function planOf(tree: object | undefined): OperationPlan {
  const rootHostPid = Number(workload.pid);
  const rootStartTime = readProcess(rootHostPid)?.startTime;
  const freezer = { version: 'signals', path: join(dir, 'stopped.json'), rootHostPid, rootStartTime };
  return { facts: { freezer, ...(tree === undefined ? {} : { tree }) } } as unknown as OperationPlan;
}

test('a tree that is given up stands still, whatever becomes of the CRIU that holds it', async () => {
  const plan = planOf({});

  new Held(plan, deps).staysStill();

  await expect.poll(() => readProcess(Number(workload.pid))?.state).toBe('T');
  expect(freezerState(plan.facts.freezer)).toBe('frozen');
});

test('a container that is given up has its freezer, and is not touched', () => {
  new Held(planOf(undefined), deps).staysStill();

  expect(readProcess(Number(workload.pid))?.state).not.toBe('T');
});

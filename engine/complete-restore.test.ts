/* The end of a restore with GPU processes, as the agent answers it. The rest: test/system/gpu-restore.test.ts. */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { completeRestoreRequest } from '../core/contract/restore.ts';
import { scriptedDriver, type ScriptedDriver } from '../test/harness/scripted-driver.ts';
import { IMAGE_GPU_FILE } from './gpu/image-gpu.ts';
import type { NodeDeps } from './node-deps.ts';
import { operationPaths } from './operation.ts';
import { completeRestore } from './complete-restore.ts';
import { readRestore, writeRestore } from './restore-operation.ts';

const OPERATION = 'a'.repeat(32);
const silent = (): void => undefined;
const op = {
  signal: new AbortController().signal,
  log: { debug: silent, info: silent, warn: silent, error: silent },
  progress: silent,
};

let dir: string;
let workload: ChildProcess;
let hostPid: number;
let driver: ScriptedDriver;
let deps: NodeDeps;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-restore-agent-'));
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
  hostPid = Number(workload.pid);
  driver = scriptedDriver();
  driver.states.set(hostPid, 'checkpointed');
  deps = { settings: { runDir: dir, stateDir: dir, node: 'n' }, gpu: () => ({ driver }) } as unknown as NodeDeps;
  const processes = [{ hostPid: 1, nsPid: hostPid, vramBytes: 64, devices: [], visible: [] }];
  writeFileSync(join(dir, IMAGE_GPU_FILE), JSON.stringify({ processes, driver: '580.0', devices: [] }));
  writeRestore(deps.settings, {
    operationId: OPERATION,
    container: { namespace: 'default', id: 'c1' },
    madeBy: 'worker',
    checkpointDir: dir,
    imageDir: dir,
    hasMetadata: false,
    snapshotter: '',
    tcp: 'close',
    onFailure: 'fail',
    restoreBudgetMs: 30_000,
    stdio: { kind: 'null' },
    terminal: false,
    attempt: 1,
    state: 'prepared',
    gpu: {
      map: [],
      fit: { nodes: [], memoryBytes: 0, driver: { was: '580.0', is: '580.0' } },
      vram: {},
      memoryBytes: 0,
    },
  });
});
afterEach(() => {
  workload.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

function complete(): ReturnType<typeof completeRestore> {
  const call = {
    operationId: OPERATION,
    container: { id: 'c1' },
    outcome: 'restored',
    initHostPid: hostPid,
    restoreMs: 5,
  };
  return completeRestore(deps, op, completeRestoreRequest.parse(call));
}

test('the container goes on when its GPU state is back, which is kept', async () => {
  expect(await complete()).toEqual({ proceed: true });

  expect(readRestore(deps.settings, OPERATION)).toMatchObject({ state: 'restored', gpuFacts: { processes: 1 } });
});

test('it is ended when a process does not come back, and why is kept', async () => {
  driver.faults.set('restore', 801);

  expect(await complete()).toMatchObject({ proceed: false, reason: expect.stringMatching(/801/) as string });

  expect(readRestore(deps.settings, OPERATION)).toMatchObject({ state: 'failed', errorType: 'RestoreFailed' });
});

test('it goes on also when nothing can be kept of that: it has run since the unlock', async () => {
  const unlock = driver.unlock.bind(driver);
  driver.unlock = async (pid, deadlineMs) => {
    await unlock(pid, deadlineMs);
    const file = join(operationPaths(deps.settings, OPERATION).dir, 'restore.json');
    rmSync(file);
    mkdirSync(file);
  };

  expect(await complete()).toEqual({ proceed: true });
});

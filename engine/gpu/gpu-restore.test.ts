/* The order of the driver's calls on real processes, the driver made of literals. Containers: test/system/gpu-restore.test.ts. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Run } from '../../native/run/run.ts';
import { scriptedDriver, type ScriptedDriver } from '../../test/harness/scripted-driver.ts';
import { type GpuRestoreInput, restoreContainerGpu } from './gpu-restore.ts';
import { lowerMemory } from './restore-memory.ts';

let workload: ChildProcess;
let hostPid: number;
let driver: ScriptedDriver;

beforeEach(() => {
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
  hostPid = Number(workload.pid);
  driver = scriptedDriver();
  driver.states.set(hostPid, 'checkpointed');
});
afterEach(() => workload.kill('SIGKILL'));

const answer = { timedOut: false, cancelled: false, forceKilled: false, durationMs: 1, stdout: '', stderr: '' };
const run: Run = () => Promise.resolve({ ...answer, exitCode: 0 });

function input(): GpuRestoreInput {
  return {
    container: { namespace: 'default', id: 'c1' },
    initHostPid: hostPid,
    processes: [{ hostPid: 1, nsPid: hostPid, vramBytes: 64, devices: [], visible: [] }],
    plan: {
      map: [],
      fit: { nodes: [], memoryBytes: 0, driver: { was: '580.0', is: '580.0' } },
      vram: {},
      memoryBytes: 0,
    },
    reserved: () => Promise.resolve({ vram: new Map(), memoryBytes: 0 }),
    deadline: performance.now() + 10_000,
  };
}

test('the processes are restored and unlocked, and run', async () => {
  const facts = await restoreContainerGpu({ gpu: () => ({ driver }), run }, input());

  expect(driver.calls).toEqual([`restore ${hostPid}`, `unlock ${hostPid}`]);
  expect(facts).toMatchObject({ processes: 1, vramBytes: 64, warnings: [] });
});

test('a process that ends right after its unlock has come back all the same', async () => {
  const unlock = driver.unlock.bind(driver);
  const ending: ScriptedDriver = {
    ...driver,
    unlock: async (pid, deadlineMs) => {
      await unlock(pid, deadlineMs);
      workload.kill('SIGKILL');
      await once(workload, 'exit');
    },
    processState: (pid, deadlineMs) =>
      workload.signalCode === null ? driver.processState(pid, deadlineMs) : Promise.reject(new Error('304')),
  };

  expect((await restoreContainerGpu({ gpu: () => ({ driver: ending }), run }, input())).processes).toBe(1);
});

test('a process that is still locked after its unlock has not', async () => {
  const stuck: ScriptedDriver = { ...driver, unlock: () => Promise.resolve() };

  await expect(restoreContainerGpu({ gpu: () => ({ driver: stuck }), run }, input())).rejects.toMatchObject({
    type: 'RestoreFailed',
    message: expect.stringMatching(/is locked, not running/) as string,
  });
});

test('a memory limit that the runtime does not take back is a warning: the workload runs by then', async () => {
  const refuses: Run = () => Promise.resolve({ ...answer, exitCode: 1, stderr: 'no such unit\n' });
  const limited = {
    runcPath: '/usr/bin/runc',
    runcRoot: '/run/runc',
    containerId: 'c1',
    initHostPid: hostPid,
    memory: { limit: 2 ** 50, swap: 2 ** 51 },
  };

  expect(await lowerMemory(run, limited)).toEqual([]);
  expect(await lowerMemory(refuses, limited)).toEqual([
    'the memory limit of container c1 could not be put back to 1125899906842624: no such unit; lower it yourself: ' +
      '/usr/bin/runc --root /run/runc update --memory 1125899906842624 --memory-swap 2251799813685248 c1',
  ]);
});

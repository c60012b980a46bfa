/* The runner around the GPU: which way back it takes from where. The capture itself: test/system. */
import { spawn, type ChildProcess } from 'node:child_process';
import { request } from 'node:http';
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { json } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { GpuProcessState } from '../core/gpu/process-state.ts';
import { CudaError } from '../native/cuda/error.ts';
import { readProcess } from '../native/proc/tree.ts';
import { runExeca } from '../native/run/run-execa.ts';
import { scriptedDriver, type ScriptedDriver } from '../test/harness/scripted-driver.ts';
import { decide } from './guard.ts';
import { reconcile } from './reconcile.ts';
import { NO_GPU, type GpuPlan } from './gpu/gpu-plan.ts';
import { mayBeFrozen, readJournal } from './journal.ts';
import type { NodeDeps } from './node-deps.ts';
import { operationPaths, writePlan, type OperationPlan } from './operation.ts';
import { serveRunner, type RunnerAnswer, type RunnerCall } from './runner-server.ts';
import { Runner } from './runner.ts';

const silent = (): void => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };

/** CRIU's part up to the freeze, after which it fails. */
const FAILING_RUNC = `#!/bin/sh
echo pre-dump >"$KYBERNATE_EVENTS"
read -r answer <"$KYBERNATE_ANSWERS"
exit 1
`;

let dir: string;
let workload: ChildProcess;
let hostPid: number;
let driver: ScriptedDriver;
let plan: OperationPlan;
let deps: Pick<NodeDeps, 'run' | 'gpu'>;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-runner-gpu-'));
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
  hostPid = workload.pid ?? 0;
  mkdirSync(join(dir, 'cgroup'));
  freezer('THAWED');
  writeFileSync(join(dir, 'limit'), '100');
  writeFileSync(join(dir, 'runc'), FAILING_RUNC, { mode: 0o755 });
  driver = scriptedDriver();
  const startTime = readProcess(hostPid)?.startTime ?? 0;
  const gpu: GpuPlan = {
    ...NO_GPU,
    driver: '580.0',
    processes: [
      { hostPid, nsPid: 1, startTime, command: 'sleep', vramBytes: 1000, devices: ['GPU-0'], visible: ['GPU-0'] },
    ],
    vramBytes: 1000,
    lockTimeoutMs: 100,
    memoryRaises: [{ file: join(dir, 'limit'), before: '100', after: '200' }],
    estimatedRestoreMs: 1000,
  };
  plan = {
    checkpointId: 'ck-test',
    operationId: '1'.repeat(32),
    container: { namespace: 'default', id: 'c1' },
    workflow: { workflowId: 'w', runId: 'r' },
    token: 1,
    engine: 'runc',
    after: 'resume',
    freezeBudgetMs: 30_000,
    holdBudgetMs: 30_000,
    checkpointDir: join(dir, 'checkpoint-a'),
    analysis: { criuConfig: [], runcFlags: [], linkRemap: false },
    gpu,
    facts: {
      initHostPid: hostPid,
      initStartTime: startTime,
      processes: [],
      foreignHostPids: [],
      mounts: [],
      record: { snapshotKey: '', snapshotter: '' },
      runcRoot: dir,
      freezer: { version: 1, path: join(dir, 'cgroup') },
      networkNamespace: { private: true },
    },
    settings: {
      node: 'n',
      runDir: dir,
      stateDir: dir,
      runcPath: join(dir, 'runc'),
      programPath: String(process.env['PATH']),
    },
  } as unknown as OperationPlan;
  const none = { timedOut: false, cancelled: false, forceKilled: false, durationMs: 1, stderr: '' };
  deps = {
    gpu: () => ({ driver }),
    run: (file, args, options) =>
      file === 'nsenter'
        ? Promise.resolve({ ...none, exitCode: 0, stdout: '{"nftables":[]}' })
        : runExeca(file, args, options),
  };
});
afterEach(() => {
  workload.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

function freezer(state: string): void {
  writeFileSync(join(dir, 'cgroup', 'freezer.state'), state);
}

function newRunner(changes: Partial<OperationPlan> = {}): Runner {
  plan = { ...plan, ...changes };
  writePlan(plan);
  const containerd = (): never => {
    throw new Error('no containerd here');
  };
  return new Runner(plan, { ...deps, containerd, log });
}

const journal = (): string => operationPaths(plan.settings, plan.operationId).journal;
const steps = (): string[] => readJournal(journal()).map(({ step, state }) => `${step} ${state}`);
const limit = (): string => readFileSync(join(dir, 'limit'), 'utf8');
const names = (): string[] => driver.calls.map((call) => call.split(' ')[0] ?? '');
const state = (): GpuProcessState | undefined => driver.states.get(hostPid);

/** A promise that somebody else ends. */
function gate(): { wait: Promise<void>; open: () => void } {
  let open = silent;
  const wait = new Promise<void>((resolve) => (open = resolve));
  return { wait, open };
}

async function post(socketPath: string, call: RunnerCall): Promise<RunnerAnswer> {
  return new Promise((resolve, reject) => {
    request({ socketPath, path: `/${call}`, method: 'POST' }, (response) => {
      json(response).then((body) => resolve(body as RunnerAnswer), reject);
    })
      .on('error', reject)
      .end();
  });
}

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries += 1) {
    expect(tries).toBeLessThan(1000);
    await sleep(5);
  }
}

test('a save that is resumed without a capture is a rehearsal: in order, with its times, limits as before', async () => {
  const runner = newRunner();

  const saved = await runner.saveGpuState();
  expect([saved.gpuProcesses, saved.vramBytes, state(), limit()]).toEqual([1, 1000, 'checkpointed', '200']);
  expect([runner.busy, runner.frozen, mayBeFrozen(readJournal(journal()))]).toEqual([true, true, true]);
  const resumed = await runner.resume();

  expect(names()).toEqual(['lock', 'checkpoint', 'restore', 'unlock']);
  expect(resumed).toMatchObject({ source: 'running', checks: { gpuRunning: true }, gpu: { warnings: [] } });
  expect(Object.keys(resumed.gpu?.parts ?? {})).toEqual(
    expect.arrayContaining(['gpu-lock', 'gpu-save', 'step-gap', 'gpu-restore', 'gpu-unlock', 'gpu-put-back']),
  );
  expect([limit(), runner.busy, runner.frozen, mayBeFrozen(readJournal(journal()))]).toEqual([
    '100',
    false,
    false,
    false,
  ]);
  expect(steps()).toEqual([
    'armed done',
    'gpu-locking begin',
    'gpu-locking done',
    'gpu-saved done',
    'gpu-restoring begin',
    'gpu-restored begin',
    'gpu-restored done',
    'resumed done',
  ]);
});

test('the same save is joined, not made again', async () => {
  const runner = newRunner();

  const results = await Promise.all([runner.saveGpuState(), runner.saveGpuState()]);
  await runner.saveGpuState();

  expect(results[0]).toBe(results[1]);
  expect(names()).toEqual(['lock', 'checkpoint']);
});

test('a dump that fails brings the GPU back after the thaw', async () => {
  const runner = newRunner();

  await expect(runner.capture()).rejects.toMatchObject({ type: 'DumpFailed' });

  expect(names()).toEqual(['lock', 'checkpoint', 'restore', 'unlock']);
  expect(steps()).toContain('frozen done');
  expect([readFileSync(join(dir, 'cgroup', 'freezer.state'), 'utf8'), limit()]).toEqual(['THAWED', '100']);
});

describe('what follows the save begins by itself, since the workload waits', () => {
  test.each([
    [false, ['frozen done', 'undone done'], 'DumpFailed'],
    [true, ['gpu-restored done', 'resumed done'], undefined],
  ])('rehearsal: %s', async (rehearsal, expected, type) => {
    const runner = newRunner({ rehearsal });
    const socket = join(dir, 'runner.sock');
    const server = await serveRunner(runner, socket, silent);
    try {
      expect(await post(socket, 'save-gpu-state')).toMatchObject({ result: { gpuProcesses: 1 } });
      // Nobody asks for anything more.
      await until(() => state() === 'running' && !runner.busy);

      expect(names()).toEqual(['lock', 'checkpoint', 'restore', 'unlock']);
      expect(steps()).toEqual(expect.arrayContaining(expected));
      const joined = await post(socket, rehearsal ? 'resume' : 'capture');
      expect(rehearsal ? joined.result : joined.error).toMatchObject(rehearsal ? { source: 'running' } : { type });
      expect(names()).toEqual(['lock', 'checkpoint', 'restore', 'unlock']);
    } finally {
      server.close();
    }
  });
});

describe('an abort', () => {
  test('in the save waits for the call and takes it back', async () => {
    const runner = newRunner();
    const { wait, open } = gate();
    driver.faults.set('checkpoint', wait);
    const saved = runner.saveGpuState();
    await until(() => names().includes('checkpoint'));

    runner.cancel(new Error('cancelled'));
    open();

    await expect(saved).rejects.toThrow('cancelled');
    expect(names()).toEqual(['lock', 'checkpoint', 'restore', 'unlock']);
    expect([limit(), runner.busy]).toEqual(['100', false]);
  });

  test('by a resume in the save does the same', async () => {
    const runner = newRunner();
    const { wait, open } = gate();
    driver.faults.set('checkpoint', wait);
    const saved = runner.saveGpuState();
    await until(() => names().includes('checkpoint'));

    const resumed = runner.resume();
    open();

    await expect(saved).rejects.toThrow(/asked to resume/);
    expect((await resumed).source).toBe('running');
    expect([state(), limit()]).toEqual(['running', '100']);
  });

  test('by the budget between two steps brings the GPU back, and the next step says why', async () => {
    const runner = newRunner({ freezeBudgetMs: 2000 });

    await runner.saveGpuState();
    await until(() => state() === 'running' && !runner.busy);

    expect(() => runner.capture()).toThrow(/does not fit into its freeze budget of 2000 ms/);
    expect((await runner.resume()).source).toBe('running');
  });
});

test('a budget without room for the way back is refused before anything is touched', async () => {
  const runner = newRunner({ freezeBudgetMs: 1500 });

  await expect(runner.saveGpuState()).rejects.toMatchObject({ type: 'FreezeBudgetExceeded' });

  expect([names(), limit(), steps()]).toEqual([[], '100', ['armed done']]);
});

test('a GPU that is busy may be tried again by the same runner', async () => {
  const runner = newRunner();
  driver.faults.set('lock', 600);
  await expect(runner.saveGpuState()).rejects.toMatchObject({ type: 'GpuBusy' });
  expect([limit(), runner.busy]).toEqual(['100', false]);
  driver.faults.clear();

  await runner.saveGpuState();

  expect(state()).toBe('checkpointed');
  expect((await runner.resume()).source).toBe('running');
});

test('a process that the driver does not give back is poisoned, keeps the runner, and the limits stay raised', async () => {
  const runner = newRunner();
  await runner.saveGpuState();
  driver.faults.set('restore', 304);

  await expect(runner.resume()).rejects.toMatchObject({ type: 'Poisoned', details: { final: true } });
  expect([runner.busy, limit(), mayBeFrozen(readJournal(journal()))]).toEqual([true, '200', true]);
  expect(steps().at(-1)).toBe('gpu-restoring failed');
  // Its guard leaves that to it.
  expect(decide({ plan, runs: true, entries: readJournal(journal()), nowMs: Date.now() + 1e9 })).toBe('wait');
  driver.faults.clear();

  expect((await runner.resume()).source).toBe('running');
  expect([runner.busy, limit()]).toEqual([false, '100']);
});

test('a GPU that does not come back after a capture that is whole is tried again without an undo of the capture', async () => {
  writeFileSync(join(dir, 'runc'), FAILING_RUNC.replace('exit 1', 'exit 0'), { mode: 0o755 });
  const runner = newRunner({ imagesOnly: true });
  driver.faults.set('unlock', 999);
  // What follows the thaw needs a real dump.
  const captured = runner.capture().catch(() => undefined);
  await until(() => steps().includes('gpu-restoring failed'));
  driver.faults.clear();

  expect((await runner.resume()).source).toBe('running');

  await captured;
  expect(steps()).toContain('captured done');
  expect(steps()).not.toContain('undone begin');
  expect([steps().at(-1), runner.busy, limit()]).toEqual(['resumed done', false, '100']);
});

test('each step of the way back tells how long it may take, beyond all that it waits for', async () => {
  const runner = newRunner({ gpu: { ...plan.gpu, resume: { command: ['true'], timeoutMs: 3000 } } });
  await runner.saveGpuState();
  await runner.resume();

  const allowed = (step: string): unknown =>
    readJournal(journal()).find((entry) => entry.step === step && entry.state === 'begin')?.data?.['allowMs'];
  // 5 s for memory of the device, 30 s and more for the move, 10 s for the unlock.
  expect(allowed('gpu-restoring')).toBeGreaterThan(45_000);
  // 10 s for the limits, and the hook.
  expect(allowed('gpu-restored')).toBe(13_000);
});

test('a save that comes back at the second try only fails for what it failed for, not as poisoned', async () => {
  const runner = newRunner();
  const unlock = driver.unlock.bind(driver);
  driver.faults.set('checkpoint', 999);
  driver.unlock = (pid) => {
    driver.unlock = unlock;
    return Promise.reject(new CudaError({ call: 'unlock', code: 999, name: 'UNKNOWN', hostPid: pid }));
  };

  await expect(runner.saveGpuState()).rejects.toMatchObject({
    type: 'DumpFailed',
    message: expect.stringMatching(/could not be saved/) as string,
  });

  expect([state(), limit(), runner.busy]).toEqual(['running', '100', false]);
});

test('a node that has lost its driver touches nothing', async () => {
  deps = { ...deps, gpu: () => ({ reason: 'the module is not loaded' }) };

  await expect(newRunner().saveGpuState()).rejects.toMatchObject({
    type: 'GpuUnsupported',
    message: /the module is not loaded; nothing was touched/,
  });
});

describe('a worker that finds no runner brings the GPU back at once', () => {
  const cases: Record<string, { steps: string[]; state: GpuProcessState; calls: string[] }> = {
    'before the lock': { steps: ['gpu-locking begin'], state: 'running', calls: [] },
    'after the lock': { steps: ['gpu-locking begin'], state: 'locked', calls: ['unlock'] },
    'after the save': {
      steps: ['gpu-locking begin', 'gpu-saved done'],
      state: 'checkpointed',
      calls: ['restore', 'unlock'],
    },
    'in the dump': {
      steps: ['gpu-locking begin', 'gpu-saved done', 'freezing begin', 'frozen done'],
      state: 'checkpointed',
      calls: ['restore', 'unlock'],
    },
    'after the thaw': {
      steps: ['gpu-locking begin', 'gpu-saved done', 'freezing begin', 'thawed begin', 'thawed done'],
      state: 'checkpointed',
      calls: ['restore', 'unlock'],
    },
    'after the restore': {
      steps: ['gpu-locking begin', 'freezing begin', 'thawed done', 'gpu-restoring begin'],
      state: 'locked',
      calls: ['unlock'],
    },
    'after the unlock': {
      steps: ['gpu-locking begin', 'freezing begin', 'thawed done', 'gpu-restoring begin', 'gpu-restored begin'],
      state: 'running',
      calls: [],
    },
  };
  test.each(Object.entries(cases))('%s', async (_name, { steps: written, state: found, calls }) => {
    writePlan(plan);
    // So long ago that the driver carries out no lock any more.
    const at = new Date(Date.now() - 60_000).toISOString();
    for (const text of written) {
      const [step, state] = text.split(' ');
      appendFileSync(journal(), `${JSON.stringify({ at, step, state })}\n`);
    }
    driver.states.set(hostPid, found);
    writeFileSync(join(dir, 'limit'), '200');
    freezer(written.includes('frozen done') ? 'FROZEN' : 'THAWED');
    const { settings } = plan;
    const node = { ...deps, settings, containerd: {} as NodeDeps['containerd'] };
    const op = { signal: new AbortController().signal, log, progress: silent };

    const result = await reconcile(node, op, () => Promise.resolve(undefined));

    expect(result.undone).toEqual([plan.operationId]);
    expect([names(), limit()]).toEqual([calls, '100']);
    expect(mayBeFrozen(readJournal(journal()))).toBe(false);
    expect((await reconcile(node, op, () => Promise.resolve(undefined))).undone).toEqual([]);
  });
});

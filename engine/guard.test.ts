import { spawn, type ChildProcess } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { tryLockExclusive } from '../native/libc/flock.ts';
import { readProcess } from '../native/proc/tree.ts';
import { captureContainer, stopContainer } from './attach.ts';
import { takeContainerLock } from './container-flock.ts';
import { NO_GPU } from './gpu/gpu-plan.ts';
import { armGuard, decide, isFinal, watchRunner } from './guard.ts';
import { readGuardReport } from './guard-report.ts';
import { appendJournal, readJournal, type JournalEntry } from './journal.ts';
import type { NodeDeps, NodeSettings } from './node-deps.ts';
import { checkToken, operationPaths, writeJson, writePlan, type OperationPlan } from './operation.ts';
import { reconcile } from './reconcile.ts';
import { undoWithoutRunner } from './undo-dead.ts';

const silent = (): void => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };
const op: Op = { signal: new AbortController().signal, progress: silent, log };

let dir: string;
let workload: ChildProcess;
let runner: ChildProcess;
let deps: NodeDeps;
let plan: OperationPlan;

/** A workload whose cgroup is a plain directory, and a runner that is any process. */
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-guard-'));
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
  runner = spawn('sleep', ['600'], { stdio: 'ignore' });
  mkdirSync(join(dir, 'cgroup'));
  mkdirSync(join(dir, 'locks'));
  writeFileSync(join(dir, 'cgroup', 'cgroup.freeze'), '1');
  writeFileSync(join(dir, 'cgroup', 'cgroup.events'), 'populated 1\nfrozen 0\n');
  const settings = { node: 'n', runDir: dir, stateDir: dir } as NodeSettings;
  const run: NodeDeps['run'] = (file) =>
    Promise.resolve({
      exitCode: file === 'unhealthy' ? 1 : 0,
      timedOut: false,
      cancelled: false,
      forceKilled: false,
      durationMs: 1,
      stderr: '',
      stdout: '{"nftables":[]}',
    });
  deps = { settings, run, containerd: {} as NodeDeps['containerd'], gpu: () => ({ reason: 'none' }) };
  plan = planOf('0', 1);
  writePlan(plan);
  writeJson(paths().runner, { pid: runner.pid, startTime: readProcess(Number(runner.pid))?.startTime });
});

afterEach(() => {
  workload.kill('SIGKILL');
  runner.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

function planOf(digit: string, token: number): OperationPlan {
  return {
    operationId: digit.repeat(32),
    checkpointId: 'a',
    container: { namespace: 'default', id: 'c1' },
    token,
    engine: 'runc',
    freezeBudgetMs: 60_000,
    holdBudgetMs: 60_000,
    checkpointDir: join(dir, 'checkpoint-a'),
    gpu: NO_GPU,
    workflow: { workflowId: 'w', runId: 'r' },
    facts: {
      initHostPid: workload.pid,
      initStartTime: readProcess(Number(workload.pid))?.startTime,
      processes: [{ hostPid: workload.pid, startTime: readProcess(Number(workload.pid))?.startTime }],
      foreignHostPids: [],
      freezer: { version: 2, path: join(dir, 'cgroup') },
      networkNamespace: { private: true },
    },
    settings: deps.settings,
  } as unknown as OperationPlan;
}

const paths = (): ReturnType<typeof operationPaths> => operationPaths(deps.settings, plan.operationId);
const freezeFile = (): string => readFileSync(join(dir, 'cgroup', 'cgroup.freeze'), 'utf8');

async function killRunner(): Promise<void> {
  const gone = new Promise((resolve) => runner.once('exit', resolve));
  runner.kill('SIGKILL');
  await gone;
}

test('the guard brings the workload back when the runner is gone, and reports', async () => {
  appendJournal(paths().journal, { step: 'frozen', state: 'done' });
  expect(await armGuard(plan)).toBe(true);
  const watched = watchRunner(plan, { ...deps, log });
  await killRunner();

  const report = await watched;

  expect(freezeFile()).toBe('0');
  expect(report).toMatchObject({ cause: 'runner-gone', result: { source: 'running', by: 'guard' } });
  expect(readGuardReport(paths())).toEqual(report);
  expect(readJournal(paths().journal).at(-1)).toMatchObject({ step: 'undone', state: 'done', data: { by: 'guard' } });
  await expect(captureContainer(deps, op, plan)).rejects.toMatchObject({
    type: 'DumpFailed',
    message: expect.stringMatching(/freeze guard brought it back/) as string,
    details: { rollback: { source: 'running' } },
  });
});

test('what a dump left among the files goes when the journal says that the workload runs', async () => {
  const upperDir = join(dir, 'upper');
  mkdirSync(upperDir);
  plan = { ...plan, facts: { ...plan.facts, upperDir }, analysis: { linkRemap: true } as never };
  appendJournal(paths().journal, { step: 'frozen', state: 'done' });
  writeFileSync(join(upperDir, 'link_remap.1'), 'x');
  await killRunner();
  const seen: unknown[] = [];
  const info = (_: object, message?: string): void => {
    seen.push([message, readJournal(paths().journal).at(-1)?.step, readJournal(paths().journal).at(-1)?.state]);
  };

  await undoWithoutRunner(deps, { ...op, log: { ...log, info } }, plan);

  expect(seen).toEqual([['links of a dump that ended in the middle were removed', 'undone', 'done']]);
  expect(existsSync(join(upperDir, 'link_remap.1'))).toBe(false);
});

test('the guard ends without a report when the runner ended well', async () => {
  appendJournal(paths().journal, { step: 'resumed', state: 'done' });
  await armGuard(plan);
  const watched = watchRunner(plan, { ...deps, log });
  await killRunner();

  expect(await watched).toBeUndefined();
  expect(freezeFile()).toBe('1');
});

test('a guard that is not the newest of its container does nothing', async () => {
  appendJournal(paths().journal, { step: 'frozen', state: 'done' });
  await armGuard(plan);
  const newer = planOf('1', 2);
  writePlan(newer);
  writeJson(operationPaths(deps.settings, newer.operationId).runner, {
    pid: process.pid,
    startTime: readProcess(process.pid)?.startTime,
  });
  expect(await armGuard(newer)).toBe(true);
  await killRunner();

  expect(await watchRunner(plan, { ...deps, log })).toBeUndefined();
  expect(freezeFile()).toBe('1');
  expect(await armGuard({ ...plan, operationId: newer.operationId })).toBe(false);
});

test('a guard whose runner was refused is not armed', async () => {
  writeJson(paths().runner, { error: { type: 'LockLost', message: 'no' } });

  expect(await armGuard(plan)).toBe(false);
});

test('a second undoer waits for the first, and finds it done', async () => {
  appendJournal(paths().journal, { step: 'frozen', state: 'done' });
  await killRunner();
  const lock = takeContainerLock(plan);
  const second = undoWithoutRunner(deps, op, plan);
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(freezeFile()).toBe('1');
  writeFileSync(join(dir, 'cgroup', 'cgroup.freeze'), '0');
  appendJournal(paths().journal, { step: 'undone', state: 'done' });

  expect((await second).source).toBe('running');
  expect(readJournal(paths().journal).filter(({ step }) => step === 'undone')).toHaveLength(1);
  expect(tryLockExclusive(lock)).toBe(true);
  closeSync(lock);
});

test('a second undoer does not close the freezer that the first has opened, whatever of the dump it still sees', async () => {
  plan = { ...plan, engine: 'containerd' };
  appendJournal(paths().journal, { step: 'frozen', state: 'done' });
  await killRunner();
  mkdirSync(plan.checkpointDir);
  copyFileSync('/bin/sleep', join(dir, 'criu'));
  const images = openSync(plan.checkpointDir, 'r');
  // It waits, so it has its grace before it is killed.
  const criu = spawn(join(dir, 'criu'), ['600'], { stdio: ['ignore', 'ignore', 'ignore', images] });
  closeSync(images);
  const ended = new Promise((resolve) => criu.once('exit', resolve));
  const lock = takeContainerLock(plan);
  const second = undoWithoutRunner(deps, op, plan);
  appendJournal(paths().journal, { step: 'undone', state: 'begin' });
  writeFileSync(join(dir, 'cgroup', 'cgroup.freeze'), '0');
  await ended;

  expect(freezeFile()).toBe('0');
  appendJournal(paths().journal, { step: 'undone', state: 'done' });
  expect((await second).source).toBe('running');
  closeSync(lock);
});

describe('a source that was handed over', () => {
  beforeEach(async () => {
    appendJournal(paths().journal, { step: 'held', state: 'done' });
    appendJournal(paths().journal, { step: 'handover', state: 'done' });
    await killRunner();
  });

  test('is let go by nobody', async () => {
    expect(await watchRunner(plan, { ...deps, log })).toBeUndefined();
    expect((await reconcile(deps, op, () => Promise.resolve(undefined))).undone).toEqual([]);
    await expect(undoWithoutRunner(deps, op, plan)).rejects.toMatchObject({ type: 'LockLost' });
    expect(freezeFile()).toBe('1');
  });

  test('is ended without its runner', async () => {
    expect((await stopContainer(deps, op, plan)).source).toBe('stopped');
    expect(workload.signalCode ?? readProcess(Number(workload.pid))?.state ?? 'Z').toMatch(/SIGKILL|Z/);
  });

  test('is ended by whoever finds that its end had begun', async () => {
    appendJournal(paths().journal, { step: 'killed', state: 'begin' });

    const report = await watchRunner(plan, { ...deps, log });

    expect(report?.result?.source).toBe('stopped');
  });
});

test('a lock that is merely held still is no end for a guard, one that was given up is', () => {
  const lost = new KybernateError('LockLost', 'held');
  const at = '';
  const frozen = { at, step: 'frozen', state: 'done' } as const;
  const handover = { at, step: 'handover', state: 'done' } as const;

  expect(isFinal(lost, [frozen])).toBe(false);
  expect(isFinal(lost, undefined)).toBe(false);
  expect(isFinal(lost, [frozen, handover, { at, step: 'killed', state: 'begin' }])).toBe(false);
  expect(isFinal(lost, [frozen, handover])).toBe(true);
  expect(isFinal(new KybernateError('Poisoned', 'no', { details: { final: true } }), [frozen])).toBe(true);
});

test('a journal that could not be read is read again, though it has not grown', async () => {
  appendJournal(paths().journal, { step: 'resumed', state: 'done' });
  const text = readFileSync(paths().journal);
  // As large as the journal, and unreadable as a file.
  rmSync(paths().journal);
  mkdirSync(paths().journal);
  const size = statSync(paths().journal).size;
  let told = 0;
  const watched = watchRunner(plan, { ...deps, log: { ...log, error: () => (told += 1) } });
  await new Promise((resolve) => setTimeout(resolve, 150));
  rmSync(paths().journal, { recursive: true });
  writeFileSync(paths().journal, text.toString().padEnd(size));
  expect(statSync(paths().journal).size).toBe(size);
  await killRunner();

  expect(await watched).toBeUndefined();
  expect(told).toBe(1);
});

test('the report of a guard lies there before the workload is asked whether it is well', async () => {
  plan = { ...plan, health: { command: ['ask'], timeoutMs: 1000 } };
  appendJournal(paths().journal, { step: 'frozen', state: 'done' });
  await killRunner();
  let before: unknown;
  const { run } = deps;
  const asking: NodeDeps['run'] = (file, args, options) => {
    if (args.includes('ask')) {
      before = readGuardReport(paths());
    }
    return run(file, args, options);
  };

  const report = await watchRunner(plan, { ...deps, run: asking, log });

  expect(before).toMatchObject({ result: { source: 'running' } });
  expect(report).toMatchObject({ result: { health: { healthy: true } } });
  expect(readGuardReport(paths())).toEqual(report);
});

test('what the dump left in a network that others share goes with a container that has ended, though it is old', async () => {
  const inode = statSync('/proc/self/ns/net').ino;
  plan = { ...plan, facts: { ...plan.facts, networkNamespace: { private: false, inode } as never } };
  writePlan(plan);
  appendJournal(paths().journal, { step: 'frozen', state: 'done' });
  mkdirSync(join(paths().dir, 'criu-work'), { recursive: true });
  writeFileSync(
    join(paths().dir, 'criu-work', 'dump.log'),
    '(00.0) CRIU run id = 88d04616-dcf2-4257-95d0-d6d26cd9eea8\n',
  );
  checkToken(plan.settings, plan.container, 2);
  await killRunner();
  const gone = new Promise((resolve) => workload.once('exit', resolve));
  workload.kill('SIGKILL');
  await gone;
  const removed: string[] = [];
  const { run } = deps;
  const tables: NodeDeps['run'] = async (file, args, options) => {
    if (args.includes('delete')) {
      removed.push(args.at(-1) ?? '');
    }
    const stdout = '{"nftables":[{"table":{"family":"inet","name":"CRIU-88d04616-dcf2-4257-95"}}]}';
    return { ...(await run(file, args, options)), stdout };
  };

  expect((await undoWithoutRunner({ ...deps, run: tables }, op, plan)).source).toBe('gone');

  expect(removed).toEqual(['CRIU-88d04616-dcf2-4257-95']);
  // Its cgroup may be that of a newer one.
  expect(freezeFile()).toBe('1');
});

describe('a guard that looks', () => {
  const at = '2026-01-01T00:00:00.000Z';
  const start = Date.parse(at);
  const entry = (step: JournalEntry['step'], data?: JournalEntry['data']): JournalEntry => ({
    at,
    step,
    state: step.endsWith('ing') ? 'begin' : 'done',
    ...(data === undefined ? {} : { data }),
  });
  const later = (step: JournalEntry['step'], state: JournalEntry['state']): JournalEntry => ({
    at: new Date(start + 60_000).toISOString(),
    step,
    state,
  });
  const gpuLocking = entry('gpu-locking');
  const restoring = entry('gpu-restoring', { allowMs: 120_000 });
  const failed = later('gpu-restoring', 'failed');
  const undoing = later('undone', 'begin');
  const look = (steps: readonly JournalEntry[], afterMs: number, gpuMs?: number): string =>
    decide({
      plan: {
        ...plan,
        gpu:
          gpuMs === undefined ? NO_GPU : { ...NO_GPU, processes: [{ hostPid: 1 }] as never, estimatedRestoreMs: gpuMs },
      },
      runs: true,
      entries: steps,
      nowMs: start + afterMs,
    });

  test.each([
    ['waits within the budget', [entry('freezing'), entry('frozen')], 59_000, undefined, 'wait'],
    ['acts when the budget is over', [entry('freezing'), entry('frozen')], 60_200, undefined, 'freeze-budget'],
    ['leaves the GPU its part', [entry('gpu-locking'), entry('gpu-saved')], 50_200, 10_000, 'freeze-budget'],
    ['lets a GPU restore that began go on', [gpuLocking, restoring], 120_900, 10_000, 'wait'],
    ['ends one that hangs', [gpuLocking, restoring], 121_100, 10_000, 'freeze-budget'],
    ['leaves one that failed to its runner', [gpuLocking, restoring, failed], 1e9, 10_000, 'wait'],
    ['lets the runner try again', [gpuLocking, restoring, failed, undoing], 69_900, 10_000, 'wait'],
    ['ends a new try that hangs', [gpuLocking, restoring, failed, undoing], 70_100, 10_000, 'freeze-budget'],
    ['lets limits go back', [gpuLocking, restoring, entry('gpu-restored', { allowMs: 70_000 })], 70_900, 1000, 'wait'],
    ['lets the undo look', [gpuLocking, undoing, restoring, later('gpu-restored', 'done')], 69_900, 1000, 'wait'],
    ['gives a hook its time', [entry('quiescing', { allowMs: 90_000 })], 90_500, 10_000, 'wait'],
    ['waits within the hold', [entry('freezing'), entry('held')], 60_900, undefined, 'wait'],
    ['ends a hold that is over', [entry('freezing'), entry('held')], 61_100, undefined, 'hold-budget'],
    ['leaves a source that was handed over', [entry('held'), entry('handover')], 1e9, undefined, 'wait'],
    ['leaves a workload that runs', [entry('freezing'), entry('thawed')], 1e9, undefined, 'wait'],
  ] as const)('%s', (_name, steps, afterMs, gpuMs, expected) => {
    expect(look(steps, afterMs, gpuMs)).toBe(expected);
  });

  test('takes a journal that cannot be read for one of a frozen workload, once the runner is gone', () => {
    expect(decide({ plan, runs: false, entries: undefined, nowMs: 0 })).toBe('runner-gone');
    expect(decide({ plan, runs: true, entries: undefined, nowMs: 1e15 })).toBe('wait');
  });
});

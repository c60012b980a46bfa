import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readProcess } from '../native/proc/tree.ts';
import { runExeca } from '../native/run/run-execa.ts';
import type { Run } from '../native/run/run.ts';
import { NO_GPU } from './gpu/gpu-plan.ts';
import { appendJournal, mayBeFrozen, readJournal } from './journal.ts';
import { operationPaths, writePlan, type OperationPlan } from './operation.ts';
import { Runner } from './runner.ts';
import { undoCapture } from './undo.ts';

const silent = (): void => undefined;
const gpu = (): { reason: string } => ({ reason: 'no GPU here' });
const log = { debug: silent, info: silent, warn: silent, error: silent };

/** CRIU's part up to the freeze, after which it fails. */
const FAILING_RUNC = `#!/bin/sh
echo pre-dump >"$KYBERNATE_EVENTS"
read -r answer <"$KYBERNATE_ANSWERS"
exit 1
`;

let dir: string;
let workload: ChildProcess;
let plan: OperationPlan;
/** how many calls of nft fail from now on */
let nftFailures: number;

const run: Run = (file, args, options) => {
  if (file === 'tar') {
    // A layer so big that its diff does not end by itself.
    return new Promise((_resolve, reject) => {
      options?.signal?.addEventListener('abort', () => reject(new Error('tar was ended')));
    });
  }
  if (file !== 'nsenter') {
    return runExeca(file, args, options);
  }
  nftFailures -= 1;
  const ok = nftFailures < 0;
  return Promise.resolve({
    exitCode: ok ? 0 : 1,
    timedOut: false,
    cancelled: false,
    forceKilled: false,
    durationMs: 1,
    stderr: ok ? '' : 'netlink: Operation not supported',
    stdout: '{"nftables":[]}',
  });
};

const freezer = (): string => readFileSync(join(dir, 'cgroup', 'freezer.state'), 'utf8');

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-runner-'));
  nftFailures = 0;
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
  mkdirSync(join(dir, 'cgroup'));
  writeFileSync(join(dir, 'cgroup', 'freezer.state'), 'THAWED');
  const runcPath = join(dir, 'runc');
  writeFileSync(runcPath, FAILING_RUNC, { mode: 0o755 });
  plan = {
    checkpointId: 'ck-test',
    operationId: '1'.repeat(32),
    container: { namespace: 'default', id: 'c1' },
    token: 1,
    engine: 'runc',
    after: 'hold',
    freezeBudgetMs: 30_000,
    holdBudgetMs: 30_000,
    checkpointDir: join(dir, 'checkpoint-a'),
    analysis: { criuConfig: [], runcFlags: [], linkRemap: false },
    gpu: NO_GPU,
    facts: {
      initHostPid: workload.pid,
      initStartTime: readProcess(Number(workload.pid))?.startTime,
      processes: [],
      foreignHostPids: [],
      mounts: [],
      record: { snapshotKey: '', snapshotter: '' },
      runcRoot: dir,
      freezer: { version: 1, path: join(dir, 'cgroup') },
      networkNamespace: { private: true },
    },
    settings: { node: 'n', runDir: dir, stateDir: dir, runcPath, programPath: String(process.env['PATH']) },
  } as unknown as OperationPlan;
  writePlan(plan);
});

afterEach(() => {
  workload.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

function newRunner(): Runner {
  const containerd = (): never => {
    throw new Error('no containerd here');
  };
  return new Runner(plan, { run, containerd, log, gpu });
}

test('a failed dump lets the workload run, also when the network locks cannot be looked at', async () => {
  const runner = newRunner();
  nftFailures = 1000;

  await expect(runner.capture()).rejects.toThrow(/nft/);

  const steps = readJournal(operationPaths(plan.settings, plan.operationId).journal).map((entry) => entry.step);
  expect(steps).toContain('frozen');
  expect(freezer()).toBe('THAWED');
});

test('a failed dump does not wait for the diff of the rw layer', async () => {
  mkdirSync(join(dir, 'upper'));
  writeFileSync(join(dir, 'upper', 'file'), '');
  plan = { ...plan, facts: { ...plan.facts, upperDir: join(dir, 'upper') } };
  writePlan(plan);

  await expect(newRunner().capture()).rejects.toThrow(/runc checkpoint/);

  expect(freezer()).toBe('THAWED');
});

test('a release that failed is made again', async () => {
  const runner = newRunner();
  nftFailures = 1000;
  await expect(runner.capture()).rejects.toThrow(/nft/);
  nftFailures = 0;

  expect((await runner.resume()).source).toBe('running');
});

test('a capture does not begin after the end of its operation', async () => {
  const runner = newRunner();
  await runner.resume();

  expect(() => runner.capture()).toThrow(/ended before its capture/);
});

test('a workload that is not held is not ended', async () => {
  const runner = newRunner();

  await expect(runner.stop()).rejects.toThrow(/not held/);

  expect(workload.exitCode ?? workload.signalCode).toBeNull();
});

test('an undo thaws although the journal cannot be written', async () => {
  writeFileSync(join(dir, 'cgroup', 'freezer.state'), 'FROZEN');
  mkdirSync(operationPaths(plan.settings, plan.operationId).journal);

  const result = await undoCapture(plan, { run, gpu }, log, 'worker');

  expect(result.source).toBe('running');
  expect(freezer()).toBe('THAWED');
});

test('a torn entry hides neither those before it nor the one that follows on its line', () => {
  const file = join(dir, 'journal.jsonl');
  appendJournal(file, { step: 'armed', state: 'done' });
  writeFileSync(file, '{"at":"2026-01-01T00:00:00.000Z","st', { flag: 'a' });
  appendJournal(file, { step: 'freezing', state: 'begin' });

  const entries = readJournal(file);

  expect(entries.map((entry) => entry.step)).toEqual(['armed', 'freezing']);
  expect(mayBeFrozen(entries)).toBe(true);
});

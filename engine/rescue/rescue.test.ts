import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readProcess } from '../../native/proc/tree.ts';
import type { RunResult } from '../../native/run/run.ts';
import { NO_GPU } from '../gpu/gpu-plan.ts';
import { appendJournal, mayBeFrozen, readJournal } from '../journal.ts';
import type { NodeSettings } from '../node-deps.ts';
import { operationPaths, writeJson, writePlan, type OperationPlan } from '../operation.ts';
import { claimOperation, thisCommand } from '../operation-owner.ts';
import type { RescueDeps } from './finding.ts';
import { repair, survey } from './rescue.ts';

const ID = 'abcdef0123456789abcdef0123456789';
const ASKED = { named: false, force: false } as const;
const silent = (): void => undefined;

let dir: string;
let workload: ChildProcess;
let deps: RescueDeps;

/** A workload whose cgroup is a plain directory: written to, and read back. */
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-rescue-'));
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
  mkdirSync(join(dir, 'cgroup'));
  writeFileSync(join(dir, 'cgroup', 'cgroup.freeze'), '1');
  writeFileSync(join(dir, 'cgroup', 'cgroup.events'), 'populated 1\nfrozen 0\n');
  const settings = { node: 'n', runDir: dir, stateDir: dir } as NodeSettings;
  const answer = { exitCode: 0, timedOut: false, cancelled: false, forceKilled: false, durationMs: 1, stderr: '' };
  const run = (): Promise<RunResult> => Promise.resolve({ ...answer, stdout: '{"nftables":[]}' });
  const log = { debug: silent, info: silent, warn: silent, error: silent };
  const containerd = (): never => {
    throw new Error('no containerd here');
  };
  deps = { settings, run, containerd, gpu: () => ({ reason: 'none' }), log };
  writePlan({
    operationId: ID,
    container: { namespace: 'default', id: 'web' },
    token: 1,
    freezeBudgetMs: 60_000,
    holdBudgetMs: 60_000,
    engine: 'runc',
    checkpointDir: join(dir, 'checkpoint-a'),
    gpu: NO_GPU,
    facts: {
      initHostPid: workload.pid,
      initStartTime: readProcess(Number(workload.pid))?.startTime,
      processes: [],
      foreignHostPids: [],
      freezer: { version: 2, path: join(dir, 'cgroup') },
      networkNamespace: { private: true },
    },
    settings,
  } as unknown as OperationPlan);
});
afterEach(() => {
  workload.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

const paths = (): ReturnType<typeof operationPaths> => operationPaths(deps.settings, ID);
const stateOf = async (wanted = ID): Promise<unknown> =>
  (await survey(deps, wanted)).findings.map(({ kind, state, container }) => [kind, state, container]);

test('a workload whose runner died in the freeze stands still; its repair lets it go and reads back', async () => {
  appendJournal(paths().journal, { step: 'freezing', state: 'begin' });
  expect(await stateOf()).toEqual([['operation', 'stands still', 'default/web']]);

  const repaired = await repair((await survey(deps, 'web')).findings, ASKED);

  expect(repaired).toEqual([{ id: ID, done: 'undone, and read back: the workload runs' }]);
  expect(readFileSync(join(dir, 'cgroup', 'cgroup.freeze'), 'utf8')).toBe('0');
  expect(mayBeFrozen(readJournal(paths().journal))).toBe(false);
  expect(await stateOf('default/web')).toEqual([['operation', 'left', 'default/web']]);
});

test('one whose undo was begun and not verified is poisoned', async () => {
  appendJournal(paths().journal, { step: 'freezing', state: 'begin' });
  appendJournal(paths().journal, { step: 'undone', state: 'begin' });

  expect(await stateOf(ID.slice(0, 8))).toEqual([['operation', 'poisoned', 'default/web']]);
});

test('what a live runner has is at work, and is repaired by force alone', async () => {
  const runner = spawn('sleep', ['600'], { stdio: 'ignore' });
  try {
    writeJson(paths().runner, { pid: runner.pid, startTime: readProcess(Number(runner.pid))?.startTime });
    appendJournal(paths().journal, { step: 'freezing', state: 'begin' });
    const { findings } = await survey(deps, ID);

    expect(await stateOf()).toEqual([['operation', 'at work', 'default/web']]);
    expect(await repair(findings, ASKED)).toEqual([]);
    expect(await repair(findings, { ...ASKED, force: true })).toMatchObject([
      { id: ID, done: expect.stringMatching(/the workload runs/) as string },
    ]);
  } finally {
    runner.kill('SIGKILL');
  }
});

test('a restore that a command does itself is at work as long as the command lives', async () => {
  const id = 'c'.repeat(32);
  claimOperation(deps.settings, id, { command: thisCommand() });
  expect(await stateOf(id)).toEqual([['restore', 'at work', undefined]]);

  claimOperation(deps.settings, id, { command: { ...thisCommand(), startTime: 1 } });
  expect(await stateOf(id)).toEqual([['restore', 'left', undefined]]);
});

test('a half-made checkpoint that nobody claims is shown and removed, and no other with it', async () => {
  const half = join(dir, 'checkpoints', 'checkpoint-x');
  const other = join(dir, 'checkpoints', 'checkpoint-y');
  mkdirSync(half, { recursive: true });
  mkdirSync(other);
  const { findings } = await survey(deps, half);
  expect(findings).toMatchObject([{ kind: 'file', state: 'left', detail: 'half-made checkpoint' }]);

  expect(await repair(findings, ASKED)).toEqual([{ id: half, done: 'removed' }]);

  expect([existsSync(half), existsSync(other)]).toEqual([false, true]);
});

test('a repair that fails is told, and keeps no other from being tried', async () => {
  const base = { kind: 'mount', state: 'left', detail: '', remedy: '' } as const;
  const findings = [
    { ...base, id: 'a', repair: () => Promise.reject(new Error('busy')) },
    { ...base, id: 'b', state: 'on purpose', repair: () => Promise.resolve('never') } as const,
    { ...base, id: 'c', repair: () => Promise.resolve('unmounted') },
  ];

  expect(await repair(findings, ASKED)).toEqual([
    { id: 'a', error: 'busy' },
    { id: 'c', done: 'unmounted' },
  ]);
  expect(await repair(findings, { ...ASKED, named: true })).toHaveLength(3);
});

test.each([
  ['left', 'drops nothing', []],
  ['stands still', 'connections are cut off', [{ chain: { policy: 'drop' } }]],
])('a table of a CRIU that is gone is %s when it %s', async (state, why, content) => {
  const table = { table: { family: 'inet', name: 'CRIU-1' } };
  const answer = { exitCode: 0, timedOut: false, cancelled: false, forceKilled: false, durationMs: 1, stderr: '' };
  const run: RescueDeps['run'] = (_program, args) =>
    Promise.resolve({ ...answer, stdout: JSON.stringify({ nftables: args.includes('tables') ? [table] : content }) });

  const [finding] = (await survey({ ...deps, run }, 'CRIU-1')).findings;

  expect(finding).toMatchObject({ kind: 'network lock', state, detail: expect.stringContaining(why) as string });
});

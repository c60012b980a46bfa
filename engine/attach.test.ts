import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Op } from '../core/op.ts';
import { readProcess } from '../native/proc/tree.ts';
import { captureContainer, discardCapture, resumeContainer } from './attach.ts';
import { NO_GPU } from './gpu/gpu-plan.ts';
import { appendJournal, readJournal } from './journal.ts';
import type { NodeDeps, NodeSettings } from './node-deps.ts';
import { checkToken, operationPaths, writeJson, writePlan, type OperationPlan } from './operation.ts';
import { forgetOperation, reconcile, undoAbandoned } from './reconcile.ts';
import type { OperationRef } from './runner-client.ts';
import { undoWithoutRunner } from './undo-dead.ts';

const ID = '0'.repeat(32);
const container = { namespace: 'default', id: 'c1' };
const ref: OperationRef = { operationId: ID, checkpointId: 'a', container, token: 1 };
const silent = (): void => undefined;

let dir: string;
let workload: ChildProcess;
let deps: NodeDeps;
let plan: OperationPlan;
let servers: Server[];

function opWith(signal = new AbortController().signal): Op {
  return { signal, progress: silent, log: { debug: silent, info: silent, warn: silent, error: silent } };
}

function freezeFile(): string {
  return readFileSync(join(dir, 'cgroup', 'cgroup.freeze'), 'utf8');
}

/** A workload whose cgroup is a plain directory: written to, and read back. */
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-attach-'));
  servers = [];
  workload = spawn('sleep', ['600'], { stdio: 'ignore' });
  mkdirSync(join(dir, 'cgroup'));
  writeFileSync(join(dir, 'cgroup', 'cgroup.freeze'), '1');
  writeFileSync(join(dir, 'cgroup', 'cgroup.events'), 'populated 1\nfrozen 0\n');
  const settings = { node: 'n', runDir: dir, stateDir: dir } as NodeSettings;
  const run: NodeDeps['run'] = () =>
    Promise.resolve({
      exitCode: 0,
      timedOut: false,
      cancelled: false,
      forceKilled: false,
      durationMs: 1,
      stderr: '',
      stdout: '{"nftables":[]}',
    });
  deps = { settings, run, containerd: {} as NodeDeps['containerd'], gpu: () => ({ reason: 'none' }) };
  plan = {
    operationId: ID,
    container,
    token: 1,
    workflow: { workflowId: 'w', runId: 'r' },
    freezeBudgetMs: 1000,
    holdBudgetMs: 1000,
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
  } as unknown as OperationPlan;
  writePlan(plan);
});

afterEach(() => {
  servers.forEach((server) => server.close());
  workload.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

const journal = (): string => operationPaths(deps.settings, ID).journal;

/** A runner, as far as the socket tells: this process. */
async function fakeRunner(answer: unknown, asked: string[]): Promise<void> {
  const paths = operationPaths(deps.settings, ID);
  const server = createServer((request, response) => {
    asked.push(String(request.url));
    response.end(JSON.stringify({ result: answer }));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(paths.socket, resolve));
  writeJson(paths.runner, { pid: process.pid, startTime: readProcess(process.pid)?.startTime });
}

describe('an operation whose runner died while the workload stood still', () => {
  beforeEach(() => appendJournal(journal(), { step: 'held', state: 'done' }));

  test('is undone before its journal goes, when its capture is discarded', async () => {
    await discardCapture(deps, opWith(), ref);

    expect(freezeFile()).toBe('0');
    expect(existsSync(journal())).toBe(false);
  });

  test('is not forgotten by a commit', () => {
    forgetOperation(deps, ID);

    expect(readJournal(journal())).toHaveLength(1);
  });

  test('is undone once by all who come together', async () => {
    const results = await Promise.all([1, 2, 3].map(() => undoWithoutRunner(deps, opWith(), plan)));

    expect(results.map((result) => result.source)).toEqual(['running', 'running', 'running']);
    expect(readJournal(journal()).filter((entry) => entry.step === 'undone')).toHaveLength(2);
  });
});

test('a workload is resumed although a newer token was seen', async () => {
  const asked: string[] = [];
  await fakeRunner({ source: 'running', checks: {} }, asked);
  checkToken(deps.settings, container, 2);

  const result = await resumeContainer(deps, opWith(), ref);

  expect(result.source).toBe('running');
  expect(asked).toEqual(['/resume']);
});

test('a capture that is cancelled already does not begin', async () => {
  const asked: string[] = [];
  await fakeRunner({}, asked);

  await expect(captureContainer(deps, opWith(AbortSignal.abort()), ref)).rejects.toThrow(/abort/);

  expect(asked).not.toContain('/capture');
});

describe('a live runner of a workload that stands still', () => {
  let runner: ChildProcess;
  beforeEach(() => {
    runner = spawn('sleep', ['600'], { stdio: 'ignore' });
    writeJson(operationPaths(deps.settings, ID).runner, {
      pid: runner.pid,
      startTime: readProcess(Number(runner.pid))?.startTime,
    });
    appendJournal(journal(), { step: 'freezing', state: 'begin' });
  });
  afterEach(() => runner.kill('SIGKILL'));

  test('is left alone within its budget', async () => {
    writePlan({ ...plan, freezeBudgetMs: 1000, holdBudgetMs: 1000 });

    expect((await reconcile(deps, opWith(), () => Promise.resolve(undefined))).undone).toEqual([]);
  });

  test('is undone when it is long over its budget', async () => {
    writePlan({ ...plan, freezeBudgetMs: -60_000, holdBudgetMs: 1000 });

    expect((await reconcile(deps, opWith(), () => Promise.resolve(undefined))).undone).toEqual([ID]);
    expect(freezeFile()).toBe('0');
  });

  test('is undone also when its hook, which is over, might have taken an hour', async () => {
    const at = new Date(Date.now() - 60_000).toISOString();
    const quiescing = { at, step: 'quiescing', state: 'begin', data: { allowMs: 3_600_000 } };
    const entries = [quiescing, { at, step: 'freezing', state: 'begin' }];
    writeFileSync(journal(), entries.map((entry) => `${JSON.stringify(entry)}\n`).join(''));
    writePlan(plan);

    expect(await undoAbandoned(deps, opWith())).toEqual({ undone: [ID], failed: [] });
    expect(freezeFile()).toBe('0');
  });
});

test('what stands still without a runner is let go before anything is cleaned', async () => {
  appendJournal(journal(), { step: 'freezing', state: 'begin' });

  expect(await undoAbandoned(deps, opWith())).toEqual({ undone: [ID], failed: [] });
  expect(freezeFile()).toBe('0');
  expect(existsSync(operationPaths(deps.settings, ID).dir)).toBe(true);
});

/*
 * The freeze guard alone brings a workload back: no worker and no runner lives when it acts. The GPU's part of this is in
 * gpu-survival.test.ts.
 */
import { existsSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { CheckpointRequest } from '../../core/contract/checkpoint.ts';
import { stopContainer } from '../../engine/attach.ts';
import { readGuardReport, type GuardReport } from '../../engine/guard-report.ts';
import { readJournal } from '../../engine/journal.ts';
import { lockBase, operationPaths, readJson, writeJson, type OperationPlan } from '../../engine/operation.ts';
import { guardPid, runnerPid } from '../../engine/runner-process.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { testDeps, testOp } from '../harness/node-deps.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';
import { memoryCommand, workload } from '../harness/workloads.ts';

const ID = 'guarded';

interface MemoryState {
  readonly token: string;
  readonly sequence: number;
}

let stack: Stack;
let token: string;

const stateOf = (): Promise<MemoryState> => stack.readJson<MemoryState>(ID, '/tmp/state.json');

beforeAll(async () => {
  stack = await Stack.open({ withSidecar: false });
  await stack.runContainer(ID, PYTHON, memoryCommand(300), workload());
  ({ token } = await stateOf());
});
afterAll(async () => {
  await stack.close();
});

type Started = Awaited<ReturnType<Stack['startCheckpoint']>>;

/** The operation, when its journal has come to a step. */
async function untilStep(step: string): Promise<string> {
  let found = '';
  await until(
    step,
    () => {
      found = stack.operations().find((dir) => hasCome(dir, step)) ?? '';
      return found !== '';
    },
    60_000,
    2,
  );
  return found;
}

function hasCome(dir: string, step: string): boolean {
  const plan = readJson(join(dir, 'plan.json')) as OperationPlan | undefined;
  return plan?.container.id === ID && readJournal(join(dir, 'journal.jsonl')).some((entry) => entry.step === step);
}

const pathsOf = (operation: string): ReturnType<typeof operationPaths> =>
  operationPaths({ runDir: stack.runDir }, basename(operation));

async function killBoth(operation: string): Promise<void> {
  const runner = runnerPid(pathsOf(operation));
  const worker = stack.killNodeWorker();
  process.kill(Number(runner), 'SIGKILL');
  await worker;
}

async function report(operation: string): Promise<GuardReport | undefined> {
  await until('the report of the guard', () => readGuardReport(pathsOf(operation)) !== undefined);
  return readGuardReport(pathsOf(operation));
}

async function runsOn(): Promise<void> {
  const before = await stateOf();
  expect(before.token).toBe(token);
  await until(`${ID} to run on`, async () => (await stateOf()).sequence > before.sequence + 5);
  expect(stack.freezerOf(ID)).toBe('THAWED');
}

/** How the operation ends, when a worker is there again. */
async function endOf(handle: Started): Promise<{ type?: string; message?: string; source?: string }> {
  return handle.result().catch((error: unknown) => error as Error);
}

const start = (request: Partial<CheckpointRequest> = {}): Promise<Started> =>
  stack.startCheckpoint(ID, {
    // A step that goes to a worker that was just killed waits for the next one.
    timeouts: { heartbeatMs: 3000, nodePickupMs: 120_000 },
    health: { command: ['/usr/bin/python3', '-c', 'pass'], timeoutMs: 30_000 },
    ...request,
  });

/** The source stands still for good, and the checkpoint is committed. */
async function untilHeld({ checkpointId }: Started): Promise<string> {
  const operation = await untilStep('held');
  const metadata = join(stack.stateDir, 'checkpoints', `checkpoint-${checkpointId}`, 'metadata.json');
  await until('the commit', () => existsSync(metadata));
  return operation;
}

/** What the guard tells of it, before any worker lives. */
async function guardActs(operation: string): Promise<void> {
  const guard = Number(guardPid(pathsOf(operation)));
  expect(readFileSync(`/proc/${guard}/cgroup`, 'utf8')).toContain('kybernate/guards');
  await killBoth(operation);
  await report(operation);
  await runsOn();
  // It asks the workload after its report, and ends.
  await until('the end of the guard', () => readProcess(guard) === undefined);
  const told = await report(operation);
  expect(told).toMatchObject({
    cause: 'runner-gone',
    result: { source: 'running', by: 'guard', health: { healthy: true } },
  });
  expect(told?.result?.processCount).toBeGreaterThan(0);
}

test.each(['freezing', 'frozen'])(
  'worker and runner are killed after the step %s: the guard alone lets the container run, and the operation says so',
  async (step) => {
    const handle = await start();
    await guardActs(await untilStep(step));
    await stack.startWorkers();

    expect(await endOf(handle)).toMatchObject({
      type: 'DumpFailed',
      message: expect.stringMatching(/freeze guard brought it back/) as string,
    });
  },
);

test('worker and runner are killed in the hold: the guard alone lets the container run, and the checkpoint is there', async () => {
  const handle = await start({ after: 'hold' });
  await guardActs(await untilHeld(handle));
  await stack.startWorkers();
  await handle.release();

  expect(await endOf(handle)).toMatchObject({
    source: 'running',
    warnings: [expect.stringMatching(/freeze guard let it run on/) as string],
  });
});

test('a runner that hangs past its budget is ended by the guard, and the operation fails with the budget', async () => {
  const handle = await start({ freezeBudgetMs: 3000 });
  const operation = await untilStep('frozen');
  process.kill(Number(runnerPid(pathsOf(operation))), 'SIGSTOP');

  expect(await endOf(handle)).toMatchObject({
    type: 'FreezeBudgetExceeded',
    message: expect.stringMatching(/hung past the freeze budget of 3000 ms/) as string,
  });
  await runsOn();
});

test('without its guard, and with a guard of an older token, the next worker lets the container go', async () => {
  const first = await start({ after: 'hold' });
  const operation = await untilHeld(first);
  process.kill(Number(guardPid(pathsOf(operation))), 'SIGKILL');
  await killBoth(operation);
  expect(stack.freezerOf(ID)).toBe('FROZEN');
  await stack.startWorkers();
  await runsOn();
  await first.release();
  expect(await endOf(first)).toMatchObject({
    source: 'running',
    warnings: [expect.stringMatching(/the worker let it run on/) as string],
  });

  const second = await start({ after: 'hold' });
  const old = await untilHeld(second);
  const plan = readJson(join(old, 'plan.json')) as OperationPlan;
  writeJson(`${lockBase(plan.settings, plan.container)}.guard`, { operationId: 'f'.repeat(32), token: plan.token + 1 });
  const guard = Number(guardPid(pathsOf(old)));
  await killBoth(old);
  await until('the end of the old guard', () => readProcess(guard) === undefined);
  expect(stack.freezerOf(ID)).toBe('FROZEN');
  writeJson(`${lockBase(plan.settings, plan.container)}.guard`, { operationId: plan.operationId, token: plan.token });
  await stack.startWorkers();
  await runsOn();
  await second.release();
  expect(await endOf(second)).toMatchObject({ source: 'running' });
});

test('after a handover nobody lets the source go, whatever dies or asks; it is ended without its runner', async () => {
  const handle = await start({ after: 'hold' });
  const operation = await untilHeld(handle);
  const guard = Number(guardPid(pathsOf(operation)));
  const plan = readJson(join(operation, 'plan.json')) as OperationPlan;
  await ask(pathsOf(operation).socket, 'hand-over');
  process.kill(Number(runnerPid(pathsOf(operation))), 'SIGKILL');

  await until('the end of the guard', () => readProcess(guard) === undefined);
  await handle.cancel();
  expect(await endOf(handle)).toMatchObject({ type: 'CompensationFailed' });
  expect(readGuardReport(pathsOf(operation))).toBeUndefined();
  expect(stack.freezerOf(ID)).toBe('FROZEN');

  const deps = { ...testDeps({} as Containerd), settings: plan.settings };
  expect(await stopContainer(deps, testOp(), plan)).toMatchObject({ source: 'stopped' });
});

function ask(socketPath: string, call: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, path: `/${call}`, method: 'POST' }, (response) => {
      response.resume();
      response.on('end', () => (response.statusCode === 200 ? resolve() : reject(new Error(call))));
    });
    sent.on('error', reject);
    sent.end();
  });
}

/* `kybernate rescue` on a node on which nothing is left that would help by itself. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { operationIdOf } from '../../activities/op.ts';
import { readJournal } from '../../engine/journal.ts';
import { readJson } from '../../engine/operation.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { operationsOf } from '../harness/aftermath.ts';
import { runCli, runCliJson } from '../harness/run-cli.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';
import { memoryCommand, workload } from '../harness/workloads.ts';

let stack: Stack;

beforeAll(async () => {
  // A guard would let the workload go by itself.
  stack = await Stack.open({ withSidecar: false, env: { KYBERNATE_GUARD: 'off' } });
});
afterAll(async () => {
  // What the dead worker has left is still reserved: the run directory is that of all test files.
  await stack.startWorkers();
  await until('its operations to be reconciled', () => operationsOf(stack).length === 0, 60_000);
  await stack.close();
});

interface Answer {
  readonly left: ReadonlyArray<{ readonly id: string; readonly state: string }>;
  readonly repaired: ReadonlyArray<{ readonly id: string; readonly done?: string }>;
}

test('runner and worker are gone: rescue shows what stands still, lets it go and reads back', async () => {
  await stack.runContainer('rescued', PYTHON, memoryCommand(40), workload());
  const before = await stack.readJson<{ sequence: number }>('rescued', '/tmp/state.json');
  const handle = await stack.startCheckpoint('rescued', { after: 'hold', timeouts: { heartbeatMs: 3000 } });
  const operationId = operationIdOf(handle.workflowId, handle.runId);
  const operation = join(stack.runDir, 'operations', operationId);
  const journal = join(operation, 'journal.jsonl');
  await until('the hold', () => readJournal(journal).some(({ step }) => step === 'held'), 30_000);

  const live = await runCli(stack.variables, 'rescue', operationId, '--apply');
  await stack.killNodeWorker();
  const runner = (readJson(join(operation, 'runner.json')) as { pid: number }).pid;
  process.kill(runner, 'SIGKILL');
  await until('the end of the runner', () => ['Z', undefined].includes(readProcess(runner)?.state));
  const shown = await runCli(stack.variables, 'rescue', 'rescued');
  const still = stack.freezerOf('rescued');
  const repaired = await runCliJson<Answer>(stack.variables, 'rescue', 'rescued', '--apply');
  const after = await runCli(stack.variables, 'rescue', operationId);

  expect([live.exitCode, live.stderr]).toEqual([20, expect.stringContaining('nothing was done')]);
  expect([shown.exitCode, shown.stdout]).toEqual([22, expect.stringMatching(/^stands still +operation +/m)]);
  expect(still).toBe('FROZEN');
  expect(repaired.repaired).toEqual([{ id: operationId, done: 'undone, and read back: the workload runs' }]);
  expect(repaired.left).toMatchObject([{ id: operationId, state: 'left' }]);
  expect(after.exitCode).toBe(1);
  expect(stack.freezerOf('rescued')).toBe('THAWED');
  await until('the workload to run on', async () => {
    const now = await stack.readJson<{ sequence: number }>('rescued', '/tmp/state.json');
    return now.sequence > before.sequence + 10;
  });
});

test('a container that somebody has paused is resumed by containerd, which can pause it again', async () => {
  await stack.runContainer('paused', PYTHON, memoryCommand(40), workload());
  await until('its state', () => stack.readJson('paused', '/tmp/state.json').then(Boolean));
  await stack.ctr('tasks', 'pause', 'paused');

  const { repaired } = await runCliJson<Answer>(stack.variables, 'rescue', 'paused', '--apply');

  expect(repaired).toMatchObject([
    { done: expect.stringMatching(/^containerd has resumed .*paused; .* thawed$/) as string },
  ]);
  await stack.ctr('tasks', 'pause', 'paused');
  await stack.ctr('tasks', 'resume', 'paused');
});

test('a container of which nothing is known is not found', async () => {
  expect((await runCli(stack.variables, 'rescue', 'nobody')).exitCode).toBe(3);
});

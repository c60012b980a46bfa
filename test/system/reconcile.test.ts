/* What a node finds and ends by itself: operations whose workflow was terminated or reset, and those of a worker that died. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { operationIdOf } from '../../activities/op.ts';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { readJournal } from '../../engine/journal.ts';
import { operationPids } from '../../engine/operation-cgroup.ts';
import { readJson } from '../../engine/operation.ts';
import type { RestoreRecord } from '../../engine/restore-operation.ts';
import { listProcesses } from '../../native/proc/tree.ts';
import { countsOn, COUNTER, nothingLeft, operationsOf } from '../harness/aftermath.ts';
import { BUSYBOX, PYTHON, Stack, until } from '../harness/stack.ts';
import { memoryCommand, workload } from '../harness/workloads.ts';
import { fromLane } from '../harness/provided.ts';

let stack: Stack;
let connection: Connection;
let temporal: Client;

beforeAll(async () => {
  const { address, namespace } = fromLane('temporal');
  connection = await Connection.connect({ address });
  temporal = new Client({ connection, namespace });
  stack = await Stack.open({ withSidecar: false });
});
afterEach(() => stack.removeContainers());
afterAll(async () => {
  await connection.close();
  await stack.close();
});

const restored = (operationId: string): RestoreRecord | undefined =>
  readJson(join(stack.runDir, 'operations', operationId, 'restore.json')) as RestoreRecord | undefined;

async function containerExists(id: string): Promise<boolean> {
  return (await stack.ctr('containers', 'ls', '-q')).split('\n').includes(id);
}

/** Its worker gone, the workflow ended without a word, a new worker: what is left is found at its start. */
async function terminateAndRestart(workflowId: string): Promise<void> {
  await stack.killNodeWorker();
  await temporal.workflow.getHandle(workflowId).terminate('by a test');
  await stack.startWorkers();
}

async function startMemory(id: string): Promise<void> {
  await stack.runContainer(id, PYTHON, memoryCommand(400), workload());
  await stack.readJson(id, '/tmp/state.json');
}

async function untilStep(operationId: string, step: string): Promise<void> {
  const journal = join(stack.runDir, 'operations', operationId, 'journal.jsonl');
  await until(`the step ${step}`, () => readJournal(journal).some((entry) => entry.step === step), 20_000, 5);
}

/** Its runc waits for us: the restore neither ends nor fails by itself. */
async function stopRestoring(operationId: string): Promise<void> {
  await until(
    'the restore by runc',
    () => {
      const { bundle } = restored(operationId) ?? {};
      const runc = listProcesses().find(
        ({ commandLine }) => bundle !== undefined && commandLine.includes(` restore `) && commandLine.includes(bundle),
      );
      if (runc !== undefined) {
        process.kill(runc.hostPid, 'SIGSTOP');
      }
      return runc !== undefined;
    },
    20_000,
    1,
  );
}

test('a restore that was terminated before its processes ran leaves no container, snapshot, task, lease or file', async () => {
  await startMemory('terminated-source');
  const { checkpointId } = await stack.checkpoint('terminated-source');
  await stack.removeContainer('terminated-source');

  const handle = await stack.client.restore({
    node: stack.node,
    checkpointId,
    container: { id: 'terminated-copy', namespace: stack.namespace },
  });
  const operationId = operationIdOf(handle.workflowId, handle.runId);
  await stopRestoring(operationId);
  await terminateAndRestart(handle.workflowId);

  await until('the end of the restore', () => operationsOf(stack).length === 0, 60_000);
  const containerd = openContainerd(fromLane('containerd').dir, process.env);
  expect(await containerExists('terminated-copy')).toBe(false);
  expect(await stack.ctr('tasks', 'ls')).not.toContain('terminated-copy');
  expect(await containerd.ctrOk(['-n', stack.namespace, 'snapshots', 'ls'])).not.toContain(operationId);
  expect(existsSync(join(stack.runDir, 'leases', checkpointId))).toBe(false);
  expect(readdirSync(join(stack.stateDir, 'restores'))).toEqual([]);
  expect(listProcesses().filter(({ commandLine }) => commandLine.includes('terminated-copy'))).toEqual([]);
  await nothingLeft(stack, [checkpointId]);
});

test('a checkpoint that was terminated in its freeze lets the container run and leaves nothing', async () => {
  await startMemory('terminated');

  const handle = await stack.startCheckpoint('terminated');
  await untilStep(operationIdOf(handle.workflowId, handle.runId), 'frozen');
  await terminateAndRestart(handle.workflowId);

  await until('the end of the operation', () => operationsOf(stack).length === 0, 60_000);
  expect(stack.freezerOf('terminated')).toBe('THAWED');
  expect(stack.localCheckpoints()).not.toContain(`checkpoint-${handle.checkpointId}`);
});

test('a checkpoint that was reset in its freeze begins anew: the first run is undone, the second completes', async () => {
  await startMemory('reset');
  const { namespace } = fromLane('temporal');

  const handle = await stack.startCheckpoint('reset');
  const first = operationIdOf(handle.workflowId, handle.runId);
  await untilStep(first, 'frozen');
  const { events } = await temporal.workflow.getHandle(handle.workflowId).fetchHistory();
  const firstTaskEnd = events?.find((event) => Boolean(event.workflowTaskCompletedEventAttributes))?.eventId;
  await connection.workflowService.resetWorkflowExecution({
    namespace,
    workflowExecution: { workflowId: handle.workflowId, runId: handle.runId },
    reason: 'by a test',
    workflowTaskFinishEventId: firstTaskEnd ?? null,
    requestId: `reset-${handle.runId}`,
  });
  const result = (await temporal.workflow.getHandle(handle.workflowId).result()) as { source: string };

  expect(result.source).toBe('running');
  expect(existsSync(join(stack.runDir, 'operations', first))).toBe(false);
  expect(stack.localCheckpoints()).toContain(`checkpoint-${handle.checkpointId}`);
});

test('the runner outlives the end of all that is in the cgroup of the worker, and its checkpoint completes', async () => {
  const group = '/sys/fs/cgroup/pids/kybernate-test-unit';
  mkdirSync(group);
  try {
    await stack.runContainer('rollout', BUSYBOX, COUNTER);
    await startMemory('rolled');
    await stack.killNodeWorker();
    await stack.startWorkers();
    writeFileSync(join(group, 'cgroup.procs'), String(stack.pidOf('worker-node')));

    const handle = await stack.startCheckpoint('rolled', { timeouts: { heartbeatMs: 3000 } });
    const operationId = operationIdOf(handle.workflowId, handle.runId);
    await untilStep(operationId, 'frozen');
    const ours = readFileSync(join(group, 'cgroup.procs'), 'utf8').trim().split('\n').map(Number);
    const runner = operationPids(operationId);
    ours.forEach((pid) => process.kill(pid, 'SIGKILL'));
    await until('the end of the worker', () => stack.pidOf('worker-node') === 0);
    await stack.startWorkers();

    expect(runner.filter((pid) => ours.includes(pid))).toEqual([]);
    expect(runner).not.toEqual([]);
    expect((await handle.result()).source).toBe('running');
    await countsOn(stack, 'rollout');
  } finally {
    await until('the cgroup to be empty', () => readFileSync(join(group, 'cgroup.procs'), 'utf8') === '');
    rmdirSync(group);
  }
});

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { findDaemon } from '../../cli/dev/process.ts';
import { readJournal } from '../../engine/journal.ts';
import { readJson, type OperationPlan } from '../../engine/operation.ts';
import { listTables } from '../../native/net/nft.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { SOAK } from '../harness/soak.ts';
import { makeNetworkNamespace } from '../harness/network.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';
import { memoryCommand, workload } from '../harness/workloads.ts';
import { fromLane } from '../harness/provided.ts';

let stack: Stack;

beforeAll(async () => {
  stack = await Stack.open({ withSidecar: false });
});
afterEach(() => stack.removeContainers());
afterAll(async () => {
  await stack.close();
});

interface MemoryState {
  readonly token: string;
  readonly sequence: number;
  readonly checksum: string;
}

async function startMemory(id: string, mib: number): Promise<MemoryState> {
  await stack.runContainer(id, PYTHON, memoryCommand(mib), workload());
  return stack.readJson<MemoryState>(id, '/tmp/state.json');
}

/** Waits until the journal of this container's operation says that it is frozen. */
async function untilFrozen(id: string): Promise<string> {
  let found = '';
  await until('the freeze', () => {
    found =
      stack.operations().find((dir) => {
        const plan = readJson(join(dir, 'plan.json')) as OperationPlan | undefined;
        const journal = readJournal(join(dir, 'journal.jsonl'));
        return plan?.container.id === id && journal.some((entry) => entry.step === 'frozen');
      }) ?? '';
    return found !== '';
  });
  return found;
}

async function runsOn(id: string, since: MemoryState): Promise<void> {
  await until(`${id} to run on`, async () => {
    const now = await stack.readJson<MemoryState>(id, '/tmp/state.json');
    return now.token === since.token && now.sequence > since.sequence + 10;
  });
}

test('the worker is killed in the freeze: the runner finishes and the checkpoint completes', async () => {
  const before = await startMemory('worker-dies', 400);

  const handle = await stack.startCheckpoint('worker-dies', { timeouts: { heartbeatMs: 3000 } });
  const operation = await untilFrozen('worker-dies');
  await stack.killNodeWorker();
  await until('the runner to thaw', () =>
    readJournal(join(operation, 'journal.jsonl')).some((entry) => entry.step === 'thawed' && entry.state === 'done'),
  );
  await runsOn('worker-dies', before);
  await stack.startWorkers();
  const result = await handle.result();

  expect(result.source).toBe('running');
  expect(stack.localCheckpoints()).toContain(`checkpoint-${result.checkpointId}`);
});

test('Temporal does not answer in the freeze: the workload runs on, the checkpoint completes when it answers again', async () => {
  const before = await startMemory('temporal-stops', 400);
  const temporal = findDaemon(fromLane('containerd').dir, 'temporal');

  const handle = await stack.startCheckpoint('temporal-stops');
  const operation = await untilFrozen('temporal-stops');
  process.kill(Number(temporal?.pid), 'SIGSTOP');
  try {
    await until('the runner to thaw', () =>
      readJournal(join(operation, 'journal.jsonl')).some((entry) => entry.step === 'thawed' && entry.state === 'done'),
    );
    await runsOn('temporal-stops', before);
  } finally {
    process.kill(Number(temporal?.pid), 'SIGCONT');
  }
  const result = await handle.result();

  expect(result.source).toBe('running');
});

test('CRIU is killed with open connections: the capture fails, server and client go on, nothing is left', async () => {
  const network = await makeNetworkNamespace('kybkill', 19);
  const flags = [...workload(), '--with-ns', `network:${network.path}`];
  try {
    await stack.runContainer('criu-dies', PYTHON, ['/usr/bin/python3', '/w/echo.py', '7002', '400'], flags);
    const socket = await connected(network.address, 7002);
    let cut = false;
    socket.on('error', () => (cut = true));
    let received = 0;
    const lines = createInterface({ input: socket }).on('line', () => (received += 1));
    lines.on('error', () => (cut = true));
    const talk = async (): Promise<void> => {
      const seen = received;
      for (let line = 1; line <= 20; line += 1) {
        socket.write('x\n');
        await until('the echo', () => received === seen + line);
      }
    };
    await talk();

    // Quiet in the freeze, so that it holds without criu-keeper too; keeper.test.ts has clients that are not.
    const handle = await stack.startCheckpoint('criu-dies');
    const operation = await untilFrozen('criu-dies');
    // In the middle of the pages: before that CRIU is at work in the process's own code, and nobody may kill it there.
    await until('pages in the image', () => stack.pageBytes(handle.checkpointId) > 20e6, 10_000, 2);
    const criu = stack.dumping('criu');
    criu.forEach((process) => globalThis.process.kill(process.hostPid, 'SIGKILL'));
    expect(criu).not.toEqual([]);
    await expect(handle.result()).rejects.toMatchObject({ type: 'DumpFailed' });
    await talk();
    socket.destroy();
    expect(cut).toBe(false);

    expect(await listTables(runExeca, network.path)).toEqual([]);
    expect(stack.localCheckpoints()).not.toContain(`checkpoint-${handle.checkpointId}`);
    expect(stack.freezerOf('criu-dies')).toBe('THAWED');
    expect(operation).not.toBe('');
  } finally {
    await stack.removeContainer('criu-dies');
    await network.remove();
  }
});

test('the runner is killed in the freeze: the container is let go and nothing half-made stays', async () => {
  const before = await startMemory('runner-dies', 400);

  const handle = await stack.startCheckpoint('runner-dies');
  const operation = await untilFrozen('runner-dies');
  const { pid } = JSON.parse(readFileSync(join(operation, 'runner.json'), 'utf8')) as { pid: number };
  process.kill(pid, 'SIGKILL');

  await expect(handle.result()).rejects.toMatchObject({ type: 'DumpFailed' });
  await runsOn('runner-dies', before);
  expect(stack.localCheckpoints()).not.toContain(`checkpoint-${handle.checkpointId}`);
});

/** `make soak` raises it: fifty times as many moments of CRIU's work are hit. */
const BUDGETS = SOAK ? 250 : 5;

test('a freeze budget that is too small undoes the capture, whatever CRIU was doing, and says so', async () => {
  let before = await startMemory('budget', 300);

  for (let round = 0; round < BUDGETS; round += 1) {
    const freezeBudgetMs = 2 + Math.round((round * 180) / BUDGETS);
    await expect(stack.checkpoint('budget', { freezeBudgetMs }), `budget ${freezeBudgetMs} ms`).rejects.toMatchObject({
      type: 'FreezeBudgetExceeded',
    });
    await runsOn('budget', before);
    before = await stack.readJson<MemoryState>('budget', '/tmp/state.json');
  }
});

test('cancelling in the capture lets the container run and leaves nothing', async () => {
  const before = await startMemory('cancelled', 400);

  const handle = await stack.startCheckpoint('cancelled', { timeouts: { heartbeatMs: 2000 } });
  await untilFrozen('cancelled');
  await handle.cancel();

  await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  await runsOn('cancelled', before);
  expect(stack.localCheckpoints()).not.toContain(`checkpoint-${handle.checkpointId}`);
});

async function connected(host: string, port: number): Promise<ReturnType<typeof connect>> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await new Promise((resolve, reject) => {
        const socket = connect({ host, port });
        socket.once('connect', () => resolve(socket));
        socket.once('error', reject);
      });
    } catch (error) {
      if (attempt > 300) {
        throw error;
      }
      await new Promise((wake) => setTimeout(wake, 100));
    }
  }
}

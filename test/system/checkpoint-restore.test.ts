import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { runExeca } from '../../native/run/run-execa.ts';
import { SOAK } from '../harness/soak.ts';
import { BUSYBOX, PYTHON, Stack, until } from '../harness/stack.ts';
import { workload } from '../harness/workloads.ts';

const ROUNDS = SOAK ? 20 : 3;
const COUNTER = [
  '/bin/sh',
  '-c',
  'i=0; echo mine > /data/own; while true; do i=$((i+1)); echo $i > /tmp/n; sleep 0.02; done',
];

let stack: Stack;

beforeAll(async () => {
  stack = await Stack.open();
});
afterEach(() => stack.removeContainers());
afterAll(async () => {
  await stack.close();
});

async function counter(id: string): Promise<number> {
  return Number(await stack.read(id, '/tmp/n'));
}

test('a checkpoint lets the source run on and a restore from the store continues its count', async () => {
  await stack.runContainer('count', BUSYBOX, COUNTER);
  await until('the counter to move', async () => (await counter('count').catch(() => 0)) > 20);

  const result = await stack.checkpoint('count', { durability: 'verified', labels: { purpose: 'test' } });
  const seen = await counter('count');
  await until('the source to count on', async () => (await counter('count')) > seen);
  await stack.removeContainer('count');
  stack.removeLocal(result.checkpointId);
  const restored = await stack.restore(result.checkpointId, 'count-back');

  expect(result.source).toBe('running');
  expect(result.durability).toBe('verified');
  expect(result.freezeMs).toBeGreaterThan(0);
  expect(Math.abs(result.phases.unaccountedMs)).toBeLessThanOrEqual(Math.max(2, result.phases.totalMs * 0.02));
  expect(restored.how).toBe('restored');
  expect(restored.from).toBe('store');
  const after = await counter('count-back');
  expect(after).toBeGreaterThan(10);
  expect(after).toBeLessThanOrEqual(seen + 500);
  expect((await stack.read('count-back', '/data/own')).trim()).toBe('mine');
  await until('the restored counter to move', async () => (await counter('count-back')) > after);
});

test('a restored container can be checkpointed and restored again', async () => {
  await stack.runContainer('crcr', BUSYBOX, COUNTER);
  await until('the counter to move', async () => (await counter('crcr').catch(() => 0)) > 5);

  const first = await stack.checkpoint('crcr');
  await stack.removeContainer('crcr');
  await stack.restore(first.checkpointId, 'crcr-2');
  const between = await counter('crcr-2');
  await until('the counter to move', async () => (await counter('crcr-2')) > between + 5);
  const second = await stack.checkpoint('crcr-2');
  await stack.removeContainer('crcr-2');
  const restored = await stack.restore(second.checkpointId, 'crcr-3');

  expect(restored.how).toBe('restored');
  expect(await counter('crcr-3')).toBeGreaterThan(between + 5);
});

test(`one checkpoint restores ${ROUNDS} times in a row, and two of them at once`, async () => {
  await stack.runContainer('many', BUSYBOX, COUNTER);
  await until('the counter to move', async () => (await counter('many').catch(() => 0)) > 5);
  const { checkpointId, localPath } = await stack.checkpoint('many', { after: 'stop' });
  await stack.removeContainer('many');
  const images = readdirSync(join(localPath, 'criu')).map((name) => readFileSync(join(localPath, 'criu', name)).length);

  for (let round = 0; round < ROUNDS; round += 1) {
    const id = `many-${round}`;
    const result = await stack.restore(checkpointId, id);
    expect(result.how).toBe('restored');
    await stack.removeContainer(id);
  }
  const both = await Promise.all([stack.restore(checkpointId, 'many-a'), stack.restore(checkpointId, 'many-b')]);

  expect(both.map((result) => result.how)).toEqual(['restored', 'restored']);
  const [a, b] = [await counter('many-a'), await counter('many-b')];
  await until('both to count', async () => (await counter('many-a')) > a && (await counter('many-b')) > b);
  expect(
    readdirSync(join(localPath, 'criu')).map((name) => readFileSync(join(localPath, 'criu', name)).length),
  ).toEqual(images);
});

interface TreeState {
  readonly token: string;
  readonly sequence: number;
  readonly counts: Readonly<Record<string, number>>;
}

test('a process tree comes back with its pipes, sockets, timers, signals, watches, locks and shared memory', async () => {
  await stack.runContainer('tree', PYTHON, ['/usr/bin/python3', '/w/tree.py'], workload());
  const before = await stack.readJson<TreeState>('tree', '/tmp/state.json');
  expect(Object.values(before.counts).every((count) => count > 0)).toBe(true);

  const { checkpointId } = await stack.checkpoint('tree', { after: 'stop' });
  await stack.removeContainer('tree');
  const restored = await stack.restore(checkpointId, 'tree-back');
  const first = await stack.readJson<TreeState>('tree-back', '/tmp/state.json');
  await until('every check to move', async () => {
    const now = await stack.readJson<TreeState>('tree-back', '/tmp/state.json');
    return Object.keys(now.counts).every((name) => (now.counts[name] ?? 0) > (first.counts[name] ?? 0) + 3);
  });

  expect(restored.how).toBe('restored');
  expect(first.token).toBe(before.token);
  expect(first.sequence).toBeGreaterThanOrEqual(before.sequence);
});

test('the engine containerd makes a checkpoint that restores', async () => {
  await stack.runContainer('engine', BUSYBOX, COUNTER);
  await until('the counter to move', async () => (await counter('engine').catch(() => 0)) > 5);

  const result = await stack.checkpoint('engine', { engine: 'containerd' });
  const seen = await counter('engine');
  await until('the source to count on', async () => (await counter('engine')) > seen);
  await stack.removeContainer('engine');
  const restored = await stack.restore(result.checkpointId, 'engine-back');

  expect(restored.how).toBe('restored');
  expect(await counter('engine-back')).toBeGreaterThan(5);
});

test('hold keeps the source frozen until it is released', async () => {
  await stack.runContainer('held', BUSYBOX, COUNTER);
  await until('the counter to move', async () => (await counter('held').catch(() => 0)) > 5);

  const handle = await stack.startCheckpoint('held', { after: 'hold', holdBudgetMs: 60_000 });
  await until('the local commit', () => stack.localCheckpoints().includes(`checkpoint-${handle.checkpointId}`));
  await until('the hold', async () => stack.freezerOf('held') === 'FROZEN');
  await handle.release();
  const result = await handle.result();

  expect(result.source).toBe('running');
  const seen = await counter('held');
  await until('the source to count on', async () => (await counter('held')) > seen);
});

test('examples/checkpoint-from-code/main.ts makes a second container of one, from code', async () => {
  await stack.runContainer('from-code', BUSYBOX, COUNTER);
  await until('the counter to move', async () => (await counter('from-code').catch(() => 0)) > 5);
  const program = fileURLToPath(new URL('../../examples/checkpoint-from-code/main.ts', import.meta.url));

  const result = await runExeca(process.execPath, [program, 'from-code'], {
    env: { ...stack.variables, CONTAINERD_NAMESPACE: stack.namespace },
  });

  expect(result.stderr).toMatch(/stood still for [\d.]+ ms; \d+ bytes sent/);
  const { container } = JSON.parse(result.stdout) as { container: { id: string } };
  expect(await counter(container.id)).toBeGreaterThan(5);
});

test('examples/gpu/run.sh says on a node without a GPU that there is none', async () => {
  const script = fileURLToPath(new URL('../../examples/gpu/run.sh', import.meta.url));

  const result = await runExeca('/bin/sh', [script, 'nobody'], {
    env: { ...stack.variables, KYBERNATE_LIBCUDA: '/nowhere' },
  });

  expect(result.stdout).toMatch(/^skipped: this node has no GPU that can be checkpointed: /);
  expect(result.exitCode).toBe(0);
});

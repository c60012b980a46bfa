/* The CPU matrix: what test/system shows on cgroup v1, on whatever this machine has. No GPU is touched. */
import { rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { errorText, type Case, type CaseContext } from '../case.ts';
import { assert, assertEqual, BUSYBOX, type Environment, PYTHON, until } from '../environment.ts';

const COUNTER =
  'i=0; echo mine > /data/own; while :; do i=$((i+1)); echo $i > /tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.02; done';
const WORKLOADS = [
  '--mount',
  `type=bind,src=${fileURLToPath(new URL('../../workloads', import.meta.url))},dst=/w,options=rbind:ro`,
];
const PORT = 17_001;

async function startCounter(env: Environment): Promise<string> {
  const id = await env.run('counter', BUSYBOX, ['/bin/sh', '-c', COUNTER]);
  await until('the counter to move', 20_000, async () => (await counter(env, id)) > 10);
  return id;
}

async function counter(env: Environment, id: string): Promise<number> {
  return Number(await env.read(id, '/tmp/n').catch(() => 0));
}

async function counts(env: Environment, id: string, above: number): Promise<void> {
  await until(`${id} to count above ${above}`, 20_000, async () => (await counter(env, id)) > above);
}

export interface MemoryState {
  readonly token: string;
  readonly sequence: number;
  readonly checksum: string;
}

export async function startMemory(env: Environment, mib: number): Promise<{ id: string; state: MemoryState }> {
  const id = await env.run('memory', PYTHON, ['/usr/bin/python3', '/w/memory.py', String(mib), '64'], WORKLOADS);
  return { id, state: await env.readJson<MemoryState>(id) };
}

/** The same process, with the same bytes, does more work. */
export async function goesOn(env: Environment, id: string, since: MemoryState): Promise<void> {
  await until(`${id} to go on`, 30_000, async () => {
    const now = await env.readJson<MemoryState>(id);
    assertEqual(now.token, since.token, `token of ${id}`);
    assertEqual(now.checksum, since.checksum, `memory of ${id}`);
    // Its checksum is computed anew every 50 rounds.
    return now.sequence > since.sequence + 60;
  });
}

function recordTimes(
  context: CaseContext,
  result: { freezeMs: number; phases: { totalMs: number; unaccountedMs: number } },
): void {
  const { totalMs, unaccountedMs } = result.phases;
  context.record('freezeMs', result.freezeMs);
  context.record('totalMs', totalMs);
  assert(Math.abs(unaccountedMs) <= Math.max(2, totalMs * 0.02), `phases add up: ${unaccountedMs} of ${totalMs} ms`);
}

async function resumeAndRestore(context: CaseContext): Promise<void> {
  const { env } = context;
  const id = await startCounter(env);
  const first = await env.checkpoint(id);
  assertEqual(first.source, 'running', 'source');
  recordTimes(context, first);
  await counts(env, id, await counter(env, id));
  const second = await env.checkpoint(id, { after: 'stop' });
  assertEqual(second.source, 'stopped', 'source');
  await env.remove(id);
  const restored = await env.restore(second.checkpointId, 'counter-back');
  assertEqual(restored.how, 'restored', 'how');
  context.record('restoreMs', restored.restoreMs);
  const after = await counter(env, restored.id);
  assert(after > 10, `the count goes on: ${after}`);
  assertEqual((await env.read(restored.id, '/data/own')).trim(), 'mine', 'file of the layer');
  await counts(env, restored.id, after);
}

/**
 * Every process belongs to a user without rights, as most images have it. A machine that takes CAP_SYS_RESOURCE from root
 * refuses it before anything is touched.
 */
async function otherUser(context: CaseContext): Promise<void> {
  const { env } = context;
  const args = ['/usr/bin/python3', '/w/memory.py', '16', '8'];
  const id = await env.run('user', PYTHON, args, [...WORKLOADS, '--user', '1000:1000']);
  const state = await env.readJson<MemoryState>(id);
  const result = await env.checkpoint(id).catch((error: unknown) => errorText(error));
  await goesOn(env, id, state);
  if (typeof result === 'string') {
    assert(/^Incompatible: .*CAP_SYS_RESOURCE/.test(result), `refused for the reason: ${result}`);
    context.record('refused', true);
    return;
  }
  await env.remove(id);
  const restored = await env.restore(result.checkpointId, 'user-back');
  await goesOn(env, restored.id, state);
  assertEqual((await env.uidOf(restored.id)).join(' '), '1000 1000 1000 1000', 'user ids after the restore');
}

async function again(context: CaseContext): Promise<void> {
  const { env } = context;
  let id = await startCounter(env);
  for (let round = 0; round < 2; round += 1) {
    const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
    const last = await counter(env, id);
    await env.remove(id);
    const restored = await env.restore(checkpointId, 'again');
    id = restored.id;
    await counts(env, id, last);
  }
}

async function throughStore(context: CaseContext): Promise<void> {
  const { env } = context;
  const { id, state } = await startMemory(env, 128);
  const result = await env.checkpoint(id, { durability: 'verified' });
  recordTimes(context, result);
  await env.remove(id);
  rmSync(join(env.stateDir, 'checkpoints', `checkpoint-${result.checkpointId}`), { recursive: true });
  const restored = await env.restore(result.checkpointId, 'memory-back');
  assertEqual(restored.from, 'store', 'from');
  await goesOn(env, restored.id, state);
}

interface TreeState {
  readonly token: string;
  readonly counts: Readonly<Record<string, number>>;
}

async function tree({ env }: CaseContext): Promise<void> {
  const id = await env.run('tree', PYTHON, ['/usr/bin/python3', '/w/tree.py'], WORKLOADS);
  const before = await env.readJson<TreeState>(id);
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const { id: back } = await env.restore(checkpointId, 'tree-back');
  const restored = await env.readJson<TreeState>(back);
  assertEqual(restored.token, before.token, 'token');
  await until('every check to move', 30_000, async () => {
    const now = await env.readJson<TreeState>(back);
    return Object.entries(restored.counts).every(([name, count]) => (now.counts[name] ?? 0) > count);
  });
}

/** A client on the host's network sees neither a gap nor an end while the server is captured. */
async function connections({ env }: CaseContext): Promise<void> {
  const command = ['/usr/bin/python3', '/w/server.py', String(PORT)];
  const id = await env.run('server', PYTHON, command, [...WORKLOADS, '--net-host']);
  const socket = await until('the server', 20_000, () => dial());
  const seen: string[] = [];
  let cut = false;
  socket.on('close', () => (cut = true));
  createInterface({ input: socket }).on('line', (line) => seen.push(line));
  const timer = setInterval(() => socket.write('line\n'), 10);
  try {
    await until('traffic', 10_000, () => seen.length > 20);
    await env.checkpoint(id, { tcp: 'keep' });
    const after = seen.length;
    await until('traffic afterwards', 20_000, () => seen.length > after + 20);
    const gaps = seen.filter((line, at) => Number(line.split(' ')[1]) !== at + 1).length;
    assertEqual({ gaps, cut }, { gaps: 0, cut: false }, 'connection');
  } finally {
    clearInterval(timer);
    socket.destroy();
  }
}

function dial(): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ port: PORT, host: '127.0.0.1' });
    socket.once('connect', () => resolve(socket));
    socket.on('error', () => resolve(undefined));
  });
}

/** Waits until the runner has the container frozen. */
export async function untilStep(env: Environment, id: string, step: string, state: 'begin' | 'done'): Promise<void> {
  await until(`${step} of ${id}`, 30_000, () =>
    env.journalOf(id).some((entry) => entry.step === step && entry.state === state),
  );
}

async function workerKilled({ env, note }: CaseContext): Promise<void> {
  const { id, state } = await startMemory(env, 1024);
  const handle = await env.startCheckpoint(id, { timeouts: { heartbeatMs: 3000 } });
  await untilStep(env, id, 'frozen', 'done');
  await env.killNodeWorker();
  await untilStep(env, id, 'thawed', 'done');
  await goesOn(env, id, state);
  note('the runner thawed by itself');
  await env.startWorkers();
  const result = await handle.result();
  assertEqual(result.source, 'running', 'source');
  await env.remove(id);
  const restored = await env.restore(result.checkpointId, 'memory-back');
  await goesOn(env, restored.id, state);
}

async function cancelled({ env }: CaseContext): Promise<void> {
  const { id, state } = await startMemory(env, 1024);
  const handle = await env.startCheckpoint(id);
  await untilStep(env, id, 'frozen', 'done');
  await handle.cancel();
  const outcome = await handle.result().then(
    () => 'completed',
    () => 'cancelled',
  );
  assertEqual(outcome, 'cancelled', 'outcome');
  assert(!(await env.isFrozen(id)), 'the container is thawed');
  await goesOn(env, id, state);
  assertEqual(env.localCheckpoints(), [], 'local checkpoints');
}

async function held({ env }: CaseContext): Promise<void> {
  const id = await startCounter(env);
  const handle = await env.startCheckpoint(id, { after: 'hold' });
  await untilStep(env, id, 'held', 'done');
  await until('the hold', 10_000, async () => (await handle.progress())?.phase === 'holding' || undefined);
  const still = await counter(env, id);
  await sleep(200);
  assertEqual(await counter(env, id), still, 'count in the hold');
  await handle.release();
  assertEqual((await handle.result()).source, 'running', 'source');
  await counts(env, id, still);
}

async function throughShim({ env }: CaseContext): Promise<void> {
  const id = await startCounter(env);
  const { checkpointId } = await env.checkpoint(id, { engine: 'containerd' });
  const last = await counter(env, id);
  await counts(env, id, last);
  await env.remove(id);
  const restored = await env.restore(checkpointId, 'shim-back');
  await counts(env, restored.id, 10);
}

async function limited({ env }: CaseContext): Promise<void> {
  const id = await env.run(
    'limited',
    BUSYBOX,
    ['/bin/sh', '-c', COUNTER],
    ['--memory-limit', String(64 << 20), '--cpus', '0.5'],
  );
  await counts(env, id, 5);
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const restored = await env.restore(checkpointId, 'limited-back');
  await counts(env, restored.id, 10);
  assertEqual(await env.memoryLimit(restored.id), String(64 << 20), 'memory limit');
}

const cpu = (name: string, run: Case['run'], timeoutMs = 60_000): Case => ({ name, needs: 'cpu', timeoutMs, run });

export const CPU_CASES: readonly Case[] = [
  cpu('cpu-resume-and-restore', resumeAndRestore),
  cpu('cpu-again', again),
  cpu('cpu-through-store', throughStore),
  cpu('cpu-tree', tree),
  cpu('cpu-connections', connections),
  cpu('cpu-worker-killed', workerKilled, 90_000),
  cpu('cpu-cancelled', cancelled),
  cpu('cpu-held', held),
  cpu('cpu-through-shim', throughShim),
  cpu('cpu-limited', limited),
  cpu('cpu-other-user', otherUser),
];

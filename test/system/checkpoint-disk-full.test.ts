/* A node whose disk has no room: a small tmpfs as its state directory. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';

import { readJson, type OperationPlan } from '../../engine/operation.ts';
import { nothingLeft } from '../harness/aftermath.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';
import { memoryCommand, workload } from '../harness/workloads.ts';

const MIB = 2 ** 20;

interface MemoryState {
  readonly token: string;
  readonly sequence: number;
}

let stack: Stack;
let stateDir = '';
let before: MemoryState;

beforeAll(async () => {
  stateDir = mkdtempSync(join(tmpdir(), 'kybernate-small-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', stateDir]);
  stack = await Stack.open({ withSidecar: false, stateDir });
  await stack.runContainer('large', PYTHON, memoryCommand(80, 4), workload());
});
afterAll(async () => {
  await stack.close();
  execFileSync('umount', [stateDir]);
  rmSync(stateDir, { recursive: true });
});

beforeEach(async () => {
  before = await stack.readJson<MemoryState>('large', '/tmp/state.json');
});
afterEach(() => rmSync(join(stateDir, 'ballast'), { force: true }));

function resize(mib: number): void {
  execFileSync('mount', ['-o', `remount,size=${mib}m`, stateDir]);
}

/** Takes what is free on the disk but for so much. */
function fill(leaveBytes: number): void {
  const { bavail, bsize } = statfsSync(stateDir);
  execFileSync('fallocate', ['-l', String(bavail * bsize - leaveBytes), join(stateDir, 'ballast')]);
}

async function untouched(): Promise<void> {
  expect(stack.freezerOf('large')).toBe('THAWED');
  await until('it to run on', async () => {
    const now = await stack.readJson<MemoryState>('large', '/tmp/state.json');
    return now.token === before.token && now.sequence > before.sequence + 10;
  });
  await nothingLeft(stack);
}

it('a checkpoint that cannot fit is refused as DiskFull before the container is touched', async () => {
  await expect(stack.checkpoint('large')).rejects.toMatchObject({
    type: 'DiskFull',
    message: expect.stringContaining('the workload was not touched'),
    details: { freeBytes: expect.any(Number), neededBytes: expect.any(Number) },
  });

  await untouched();
});

it.each([
  ['runc', 40 * MIB],
  ['runc', 0],
  ['containerd', 40 * MIB],
] as const)('a disk that fills after the plan is DiskFull (engine %s, %i bytes left)', async (engine, leaveBytes) => {
  resize(256);
  const running = stack.checkpoint('large', { engine });
  const settled = running.catch(() => undefined);
  const isPlanned = (dir: string): boolean =>
    (readJson(join(dir, 'plan.json')) as OperationPlan | undefined)?.container.id === 'large';
  await until('the plan', () => stack.operations().some(isPlanned), 10_000, 1);
  fill(leaveBytes);

  await expect(running).rejects.toMatchObject({ type: 'DiskFull', message: expect.stringContaining(stateDir) });

  await settled;
  rmSync(join(stateDir, 'ballast'));
  await untouched();
});

it('with room again the same container is checkpointed and restored', async () => {
  resize(256);

  const { checkpointId } = await stack.checkpoint('large', { after: 'stop' });
  await stack.removeContainer('large');
  await stack.restore(checkpointId, 'large-back');

  const now = await stack.readJson<MemoryState>('large-back', '/tmp/state.json');
  expect(now.token).toBe(before.token);
  await nothingLeft(stack, [checkpointId]);
});

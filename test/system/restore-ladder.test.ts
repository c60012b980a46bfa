/* Real copies that are damaged or gone, and what a restore makes of it. */
import { closeSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { RestoreResult } from '../../core/contract/restore.ts';
import { COUNTER, counter, countsOn, nothingLeft } from '../harness/aftermath.ts';
import { BUSYBOX, Stack, until } from '../harness/stack.ts';

let stack: Stack;

beforeAll(async () => {
  stack = await Stack.open();
});
afterAll(async () => {
  await stack.close();
});

function damage(localPath: string): void {
  const file = join(localPath, 'criu', 'pages-1.img');
  const handle = openSync(file, 'r+');
  try {
    writeSync(handle, Buffer.alloc(64, 0xa5), 0, 64, Math.floor(statSync(file).size / 2));
  } finally {
    closeSync(handle);
  }
}

const told = ({ rungs }: RestoreResult): string[] =>
  rungs.map(({ rung, type, outcome }) => `${rung} ${type ?? outcome}`);

test('a restore climbs from a damaged copy to the store, to an older checkpoint, and to a cold start', async () => {
  await stack.runContainer('climb', BUSYBOX, COUNTER);
  await until('the counter to move', async () => (await counter(stack, 'climb').catch(() => 0)) > 20);
  const older = await stack.checkpoint('climb', { durability: 'remote' });
  const between = await counter(stack, 'climb');
  await until('the counter to move', async () => (await counter(stack, 'climb')) > between + 20);
  const newer = await stack.checkpoint('climb', { durability: 'remote', after: 'stop' });
  await stack.removeContainer('climb');
  const both = [older.checkpointId, newer.checkpointId];

  damage(newer.localPath);
  const fromStore = await stack.restore(newer.checkpointId, 'climb-store');
  expect(told(fromStore)).toEqual(['local-copy CheckpointCorrupt', 'other-tier restored']);
  expect(fromStore).toMatchObject({ from: 'store', damaged: [{ place: 'node', node: stack.node }] });
  expect(fromStore.warnings.join()).toContain('it was replaced from the store');
  expect(await counter(stack, 'climb-store')).toBeGreaterThan(between + 20);
  await countsOn(stack, 'climb-store');
  await nothingLeft(stack, both);
  const again = await stack.restore(newer.checkpointId, 'climb-local');
  expect(told(again)).toEqual(['local-copy restored']);

  damage(newer.localPath);
  rmSync(join(stack.storeDir, 'checkpoints', newer.checkpointId), { recursive: true });
  const nowhere = stack.restore(newer.checkpointId, 'climb-none');
  await expect(nowhere).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  const ladder = ['local-copy', 'other-tier', 'older-checkpoint'] as const;
  const fromOlder = await stack.restore(newer.checkpointId, 'climb-older', { ladder: [...ladder] });
  expect(told(fromOlder)).toEqual([
    'local-copy CheckpointCorrupt',
    'other-tier not-there',
    'older-checkpoint restored',
  ]);
  expect(fromOlder.checkpointId).toBe(older.checkpointId);
  await countsOn(stack, 'climb-older');

  const cold = await stack.restore(newer.checkpointId, 'climb-cold', { ladder: ['local-copy', 'cold-start'] });
  expect(told(cold)).toEqual(['local-copy CheckpointCorrupt', 'cold-start cold-started']);
  expect(cold.how).toBe('cold-started');
  await until('the new container to count', async () => (await counter(stack, 'climb-cold').catch(() => 0)) > 5);
  await nothingLeft(stack, both);
  expect(await stack.ctr('containers', 'ls', '-q')).not.toContain('climb-none');
});

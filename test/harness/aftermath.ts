/* What must hold when an operation was refused or undone: the source runs, and nothing of the operation is left. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';

import { readJson } from '../../engine/operation.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import { until, type Stack } from './stack.ts';

/** A shell that counts in /tmp/n. */
export const COUNTER = ['/bin/sh', '-c', 'i=0; while true; do i=$((i+1)); echo $i > /tmp/n; sleep 0.05; done'];

/** Reads between the shell's truncation and its write are empty, hence 0. */
export async function counter(stack: Stack, id: string): Promise<number> {
  return Number(await stack.read(id, '/tmp/n'));
}

/** The counter of the container moves, and its freezer says THAWED. */
export async function countsOn(stack: Stack, id: string): Promise<void> {
  let first = 0;
  await until(`${id} to count`, async () => (first = await counter(stack, id).catch(() => 0)) > 0);
  await until(`${id} to count on`, async () => (await counter(stack, id)) > first);
  expect(stack.freezerOf(id)).toBe('THAWED');
}

/** Everything below the directory of checkpoints, and what `kybernate ls` would list. */
export async function checkpointsOf(stack: Stack): Promise<{ entries: string[]; listed: string[]; pending: string[] }> {
  const dir = join(stack.stateDir, 'checkpoints');
  const { checkpoints, damaged } = await localCatalog(dir).list();
  expect(damaged).toEqual([]);
  return {
    entries: existsSync(dir) ? readdirSync(dir).sort() : [],
    listed: checkpoints.map(({ checkpointId }) => checkpointId),
    pending: checkpoints.filter(({ uploadPending }) => uploadPending).map(({ checkpointId }) => checkpointId),
  };
}

/** Directories of operations on this stack's node; the run directory is shared with those of other test files. */
export function operationsOf(stack: Stack): string[] {
  return stack.operations().filter((dir) => {
    const [plan, restore] = ['plan.json', 'restore.json'].map((name) => readJson(join(dir, name)));
    const ours = (plan ?? restore) as { checkpointDir?: string; settings?: unknown } | undefined;
    return ours === undefined || ours.checkpointDir?.startsWith(stack.stateDir) === true;
  });
}

/** Nothing half-made is listed or lies there, and no operation is left. */
export async function nothingLeft(stack: Stack, committed: readonly string[] = []): Promise<void> {
  const { entries, listed } = await checkpointsOf(stack);
  expect(listed).toEqual(committed.toSorted());
  expect(entries).toEqual(committed.map((id) => `checkpoint-${id}`).toSorted());
  await until('the end of every operation', () => operationsOf(stack).length === 0);
}

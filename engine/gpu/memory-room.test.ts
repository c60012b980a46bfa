import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { MemoryRaise } from './gpu-plan.ts';
import { NO_GPU } from './gpu-plan.ts';
import { putBackMemory, raiseMemory } from './memory-room.ts';

let dir: string;
let outer: string;
let inner: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-room-'));
  outer = join(dir, 'outer');
  inner = join(dir, 'inner');
  writeFileSync(outer, '2000\n');
  writeFileSync(inner, '1000\n');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function planOf(memoryRaises: readonly MemoryRaise[]): Parameters<typeof raiseMemory>[0] {
  return { container: { namespace: 'n', id: 'c' }, gpu: { ...NO_GPU, memoryRaises } };
}

function both(): Parameters<typeof raiseMemory>[0] {
  return planOf([
    { file: outer, before: '2000', after: '9000' },
    { file: inner, before: '1000', after: '8000' },
  ]);
}

function texts(): string[] {
  return [outer, inner].map((file) => readFileSync(file, 'utf8').trim());
}

test('limits are raised and put back, each as often as it is asked', async () => {
  const plan = both();

  raiseMemory(plan);
  raiseMemory(plan);
  expect(texts()).toEqual(['9000', '8000']);

  expect(await putBackMemory(plan)).toEqual([]);
  expect(await putBackMemory(plan)).toEqual([]);
  expect(texts()).toEqual(['2000', '1000']);
});

test('when one limit cannot be raised those before it are put back and the reason is told', () => {
  const gone = join(dir, 'gone', 'limit');
  const plan = planOf([
    { file: outer, before: '2000', after: '9000' },
    { file: gone, before: '1', after: '2' },
  ]);

  expect(() => raiseMemory(plan)).toThrow(/n\/c needs 2 bytes in .*gone\/limit.*the container was not touched/);
  expect(texts()).toEqual(['2000', '1000']);
});

test('a limit that has changed since the plan is not raised', () => {
  writeFileSync(inner, '1500');

  expect(() => raiseMemory(both())).toThrow(/it was 1000 at the plan and is 1500 now; try again/);
  expect(texts()).toEqual(['2000', '1500']);
});

test('a limit that somebody else has changed meanwhile is left alone and reported', async () => {
  const plan = both();
  raiseMemory(plan);
  writeFileSync(inner, '7777');

  expect(await putBackMemory(plan)).toEqual([expect.stringMatching(/inner was changed to 7777 by somebody else/)]);
  expect(texts()).toEqual(['2000', '7777']);
});

test('a limit whose cgroup has gone needs nothing', async () => {
  const plan = both();
  raiseMemory(plan);
  rmSync(inner);

  expect(await putBackMemory(plan)).toEqual([]);
});

/** One limit of cgroup v2 with what is in use beside it. */
function limitV2(current: number, filePages: number): Parameters<typeof raiseMemory>[0] {
  writeFileSync(join(dir, 'memory.max'), '8000');
  writeFileSync(join(dir, 'memory.current'), String(current));
  writeFileSync(join(dir, 'memory.stat'), `anon 1\ninactive_file ${filePages}\nactive_file 100\n`);
  return planOf([{ file: join(dir, 'memory.max'), before: '1000', after: '8000' }]);
}

test('under cgroup v2 a limit is not lowered below what is in use: that would kill', async () => {
  const left = await putBackMemory(limitV2(5000, 0), 0);

  expect(left).toEqual([expect.stringMatching(/stays raised, since 4900 bytes are in use; it was 1000/)]);
  expect(readFileSync(join(dir, 'memory.max'), 'utf8')).toBe('8000');
});

test('file pages give way, so they do not keep a limit raised', async () => {
  expect(await putBackMemory(limitV2(5000, 4500), 0)).toEqual([]);
  expect(readFileSync(join(dir, 'memory.max'), 'utf8')).toBe('1000');
});

test('the limit is lowered as soon as usage has fallen', async () => {
  const plan = limitV2(5000, 0);

  const done = putBackMemory(plan, 5000);
  setTimeout(() => writeFileSync(join(dir, 'memory.current'), '500'), 50);

  expect(await done).toEqual([]);
  expect(readFileSync(join(dir, 'memory.max'), 'utf8')).toBe('1000');
});

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { appendJournal } from '../journal.ts';
import { operationPaths } from '../operation.ts';
import { type GpuPlan, NO_GPU } from './gpu-plan.ts';
import { limitsToPutBack, reservedMemory, reservedVram } from './reservations.ts';

const [OURS, SOURCE, RESTORE] = ['a', 'b', 'c'].map((letter) => letter.repeat(32)) as [string, string, string];
const A = 'GPU-a';
let settings: { runDir: string; stateDir: string };

const PLAN: GpuPlan = {
  ...NO_GPU,
  processes: [{ hostPid: 71, nsPid: 1, startTime: 1, command: 'x', vramBytes: 100, devices: [A], visible: [A] }],
  devices: [{ uuid: A, name: '', minor: 0, memoryTotalBytes: 0, computeCapability: '', usedBytes: 100 }],
  reservedMemoryBytes: 600,
  memoryRaises: [{ file: '/limit', before: '1', after: '2' }],
};

beforeEach(() => {
  const runDir = mkdtempSync(join(tmpdir(), 'kybernate-reserved-'));
  settings = { runDir, stateDir: runDir };
  write(SOURCE, 'plan.json', { gpu: PLAN });
});
afterEach(() => rmSync(settings.runDir, { recursive: true }));

function write(operationId: string, name: string, content: object): void {
  const { dir } = operationPaths(settings, operationId);
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, name), JSON.stringify(content));
}

function vram(inUse: Parameters<typeof reservedVram>[2] = []): Promise<ReadonlyMap<string, number>> {
  return reservedVram(settings, OURS, inUse);
}

test('a saved source needs its GPU memory back, and has its host memory promised', async () => {
  expect(await reservedMemory(settings, OURS)).toBe(600);
  expect(await vram()).toEqual(new Map([[A, 100]]));
  expect(await limitsToPutBack(settings, OURS)).toEqual(new Map([['/limit', '1']]));
});

test('what a source still holds on the device needs no room besides', async () => {
  expect(await vram([{ hostPid: 71, uuid: A, usedBytes: 80 }])).toEqual(new Map([[A, 20]]));
  expect(await vram([{ hostPid: 71, uuid: A, usedBytes: 130 }])).toEqual(new Map([[A, 0]]));
  expect(await vram([{ hostPid: 99, uuid: A, usedBytes: 80 }])).toEqual(new Map([[A, 100]]));
});

test('one does not reserve against oneself', async () => {
  expect(await reservedMemory(settings, SOURCE)).toBe(0);
  expect(await reservedVram(settings, SOURCE, [])).toEqual(new Map());
});

test.each(['gpu-restored', 'killed', 'undone'] as const)('after %s nothing is promised any more', async (step) => {
  appendJournal(operationPaths(settings, SOURCE).journal, { step, state: 'done' });

  expect(await reservedMemory(settings, OURS)).toBe(0);
  expect(await vram()).toEqual(new Map());
});

test.each([
  ['prepared', 50, 700],
  ['restored', 0, 600],
  ['failed', 0, 600],
])('a restore that is %s has its promises', async (state, vramBytes, memoryBytes) => {
  write(RESTORE, 'restore.json', { state, reservedVram: { 'GPU-b': 50 }, reservedMemoryBytes: 100 });

  expect((await vram()).get('GPU-b') ?? 0).toBe(vramBytes);
  expect(await reservedMemory(settings, OURS)).toBe(memoryBytes);
});

test('a restore has limits to put back until it has done so, whatever came of it', async () => {
  const memoryRaises = [{ file: '/above', before: '3', after: '4' }];
  write(RESTORE, 'restore.json', { state: 'failed', memoryRaises });

  expect((await limitsToPutBack(settings, OURS)).get('/above')).toBe('3');
  expect((await limitsToPutBack(settings, RESTORE)).get('/above')).toBeUndefined();
});

test('operations without a GPU reserve nothing', async () => {
  write(RESTORE, 'restore.json', { state: 'prepared' });
  write(SOURCE, 'plan.json', { gpu: NO_GPU });

  expect(await reservedMemory(settings, OURS)).toBe(0);
});

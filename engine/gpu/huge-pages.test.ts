import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { operationPaths } from '../operation.ts';
import { NO_GPU } from './gpu-plan.ts';
import { putBackHugePages, releaseHugePages, setHugePages } from './huge-pages.ts';

const A = 'a'.repeat(32);
const B = 'b'.repeat(32);
const PROCESS = { hostPid: 1, nsPid: 1, startTime: 1, command: 'x', vramBytes: 0, devices: [], visible: [] };
let runDir: string;
let file: string;

beforeEach(() => {
  runDir = mkdtempSync(join(tmpdir(), 'kybernate-huge-'));
  file = join(runDir, 'enabled');
  // a plain file keeps the word that was written instead of putting it into brackets
  writeFileSync(file, 'always [madvise] never\n');
});
afterEach(() => rmSync(runDir, { recursive: true }));

function planOf(operationId: string, hugePages = true): Parameters<typeof setHugePages>[0] {
  const paths = operationPaths({ runDir }, operationId);
  mkdirSync(paths.dir, { recursive: true });
  writeFileSync(paths.plan, '{}');
  return { operationId, settings: { runDir }, gpu: { ...NO_GPU, processes: [PROCESS], hugePages } };
}

function setting(): string {
  return readFileSync(file, 'utf8').trim();
}

test('the setting is made and put back, each as often as it is asked', () => {
  const plan = planOf(A);

  expect([setHugePages(plan, file), setHugePages(plan, file)]).toEqual([[], []]);
  expect(setting()).toBe('always');
  expect([putBackHugePages(plan, file), putBackHugePages(plan, file)]).toEqual([[], []]);
  expect(setting()).toBe('madvise');
  expect(existsSync(join(runDir, 'huge-pages.json'))).toBe(false);
});

test('the last operation that uses it puts it back', () => {
  const [first, second] = [planOf(A), planOf(B)];
  setHugePages(first, file);
  setHugePages(second, file);

  putBackHugePages(first, file);
  expect(setting()).toBe('always');
  putBackHugePages(second, file);
  expect(setting()).toBe('madvise');
});

test('an operation that is gone without a word holds nothing: a worker puts the setting back at its start', () => {
  setHugePages(planOf(A), file);
  expect(releaseHugePages({ runDir }, undefined, file)).toEqual([]);
  expect(setting()).toBe('always');

  rmSync(operationPaths({ runDir }, A).dir, { recursive: true });

  expect(releaseHugePages({ runDir }, undefined, file)).toEqual([]);
  expect(setting()).toBe('madvise');
});

test('where huge pages are always on nothing is remembered', () => {
  writeFileSync(file, '[always] madvise never\n');
  const plan = planOf(A);

  expect(setHugePages(plan, file)).toEqual([]);
  expect(existsSync(join(runDir, 'huge-pages.json'))).toBe(false);
  expect(putBackHugePages(plan, file)).toEqual([]);
  expect(setting()).toBe('[always] madvise never');
});

test('a setting that somebody else has changed meanwhile is left alone and reported', () => {
  const plan = planOf(A);
  setHugePages(plan, file);
  writeFileSync(file, 'never');

  expect(putBackHugePages(plan, file)).toEqual([expect.stringMatching(/are never, they were madvise before/)]);
  expect(setting()).toBe('never');
});

test('a kernel without the setting costs a warning, and an operation that does not want it nothing', () => {
  rmSync(file);

  expect(setHugePages(planOf(A), file)).toEqual([expect.stringMatching(/could not be set, so the save takes longer/)]);
  expect(setHugePages(planOf(B, false), file)).toEqual([]);
  expect(setHugePages({ ...planOf(B), gpu: { ...NO_GPU, hugePages: true } }, file)).toEqual([]);
});

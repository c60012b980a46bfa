import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { runExeca } from './run-execa.ts';

test('exit code, output and duration are facts of the result, whatever the exit code', async () => {
  const result = await runExeca('sh', ['-c', 'echo out; echo err >&2; exit 3']);

  expect(result).toMatchObject({ exitCode: 3, stdout: 'out\n', stderr: 'err\n', timedOut: false, cancelled: false });
  expect(result.durationMs).toBeGreaterThan(0);
  expect(result.startError).toBeUndefined();
});

test('a program that does not exist is a start error, not an exception', async () => {
  const result = await runExeca('/nowhere/program', []);

  expect(result.startError).toBe('ENOENT');
  expect(result.exitCode).toBeUndefined();
});

test('only the end of a long output is kept, cut at a character', async () => {
  const result = await runExeca('sh', ['-c', 'i=0; while [ $i -lt 4000 ]; do echo "é$i"; i=$((i+1)); done'], {
    maxOutputBytes: 100,
  });

  expect(Buffer.byteLength(result.stdout)).toBeLessThanOrEqual(100);
  expect(result.stdout.endsWith('é3999\n')).toBe(true);
  expect(result.stdout).not.toContain('\uFFFD');
});

test('a given environment replaces ours but for PATH', async () => {
  const result = await runExeca('env', [], { env: { ONLY: 'this' } });

  const names = result.stdout
    .trim()
    .split('\n')
    .map((line) => line.split('=')[0]);
  expect(new Set(names)).toEqual(new Set(['ONLY', 'PATH']));
});

test('a program past its time is ended and says so', async () => {
  const result = await runExeca('sleep', ['30'], { timeoutMs: 100 });

  expect(result).toMatchObject({ timedOut: true, cancelled: false, signal: 'SIGTERM' });
});

test('an abort ends the program and says so; an abort before the start starts nothing', async () => {
  const controller = new AbortController();
  const result = await runExeca('sleep', ['30'], { signal: controller.signal, onSpawn: () => controller.abort() });
  const never = await runExeca('sleep', ['30'], { signal: AbortSignal.abort() });

  expect(result).toMatchObject({ cancelled: true, timedOut: false });
  expect(never.cancelled).toBe(true);
  expect(never.startError).toBeUndefined();
});

test('input is the standard input, without it the standard input is empty', async () => {
  const given = await runExeca('cat', [], { input: 'hello' });
  const none = await runExeca('cat', []);

  expect(given.stdout).toBe('hello');
  expect(none).toMatchObject({ exitCode: 0, stdout: '' });
});

test('extra descriptors are inherited from number 3 on', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'kybernate-run-'));
  const file = join(dir, 'fd');
  const fd = openSync(file, 'w');

  const result = await runExeca('sh', ['-c', 'echo three >&3'], { extraFds: [fd] });

  closeSync(fd);
  expect(result.exitCode).toBe(0);
  expect(readFileSync(file, 'utf8')).toBe('three\n');
  rmSync(dir, { recursive: true });
});

test('an orphan that keeps the pipe open does not hold the caller', async () => {
  const result = await runExeca('sh', ['-c', 'sleep 6 & echo started; exit 0']);

  expect(result).toMatchObject({ exitCode: 0, stdout: 'started\n' });
  expect(result.durationMs).toBeLessThan(4000);
});

import { appendFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { appendNodeLog, nodeLogFile } from '../engine/node-log.ts';
import type { Logger } from '../core/op.ts';
import { collectNodeLog, type NodeLogCollector } from './node-log.ts';

let runDir = '';
let lines: string[] = [];
let collector: NodeLogCollector | undefined;

const note =
  (level: string) =>
  (fields: Record<string, unknown>, message: string): void => {
    lines.push(`${level} ${message} ${JSON.stringify(fields)}`);
  };
const log: Logger = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') };

beforeEach(() => {
  runDir = mkdtempSync(join(tmpdir(), 'node-log-'));
  lines = [];
});

afterEach(() => {
  collector?.close();
  rmSync(runDir, { recursive: true, force: true });
});

const LINE = `${JSON.stringify({ level: 40, time: 0, node: 'n', process: 'guard', operationId: 'ab', msg: 'acts' })}\n`;

it('a line of another process is told with its level, its time and its own fields', () => {
  appendNodeLog(runDir, LINE);

  collector = collectNodeLog(runDir, log);

  expect(lines).toEqual(['warn acts {"process":"guard","operationId":"ab","at":"1970-01-01T00:00:00.000Z"}']);
});

it('lines that come while the worker collects are told once, also that of a writer who was late', () => {
  collector = collectNodeLog(runDir, log);
  appendNodeLog(runDir, LINE);
  collector.collect();
  // Opened before the file was renamed, written in two parts after it.
  appendFileSync(`${nodeLogFile(runDir)}.taken`, LINE.replace('acts', 'late').slice(0, 20));
  appendFileSync(`${nodeLogFile(runDir)}.taken`, LINE.replace('acts', 'late').slice(20));
  appendNodeLog(runDir, LINE.replace('acts', 'next'));
  collector.collect();
  collector.collect();

  expect(lines.map((line) => line.replace(/ \{.*/, ''))).toEqual(['warn acts', 'warn late', 'warn next']);
  expect(existsSync(`${nodeLogFile(runDir)}.taken`)).toBe(false);
});

it('what a worker that died had taken is told by the next one', () => {
  writeFileSync(`${nodeLogFile(runDir)}.taken`, LINE);
  appendNodeLog(runDir, LINE.replace('acts', 'acts again'));

  collector = collectNodeLog(runDir, log);

  expect(lines.map((line) => line.replace(/ \{.*/, ''))).toEqual(['warn acts', 'warn acts again']);
});

it.each(['Segmentation fault', 'null'])('a line that is no object of JSON is told as such, once: %s', (line) => {
  appendNodeLog(runDir, `${line}\n`);

  collector = collectNodeLog(runDir, log);
  collector.collect();

  expect(lines).toEqual([`warn a line of another process is no JSON {"line":"${line}"}`]);
});

it('the file does not grow without end while no worker collects', () => {
  writeFileSync(nodeLogFile(runDir), `${'x'.repeat(5 * 2 ** 20)}\n`);
  appendNodeLog(runDir, LINE);

  collector = collectNodeLog(runDir, log);

  expect(lines).toHaveLength(1);
});

it('a writer without such a directory is not disturbed', () => {
  expect(() => appendNodeLog('/nowhere/at/all', LINE)).not.toThrow();
});

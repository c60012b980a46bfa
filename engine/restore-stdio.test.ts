import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { taskStdio } from './restore-stdio.ts';

it('drops output, or appends it to a file by its URL', () => {
  expect(taskStdio({ stdio: { kind: 'null' }, terminal: false })).toMatchObject({
    stdin: '/dev/null',
    stdout: 'file:///dev/null',
    stderr: 'file:///dev/null',
  });
  expect(taskStdio({ stdio: { kind: 'log', path: '/var/log/a b.log' }, terminal: false })).toMatchObject({
    stdout: 'file:///var/log/a%20b.log',
    stderr: 'file:///var/log/a%20b.log',
  });
});

it('reads a terminal for its whole life by a program that closes fd 5 first and appends fd 3 to the file', () => {
  const dir = mkdtempSync(join(tmpdir(), "stdio it's-"));
  const log = join(dir, 'out;log');
  const { stdout, terminal } = taskStdio({ stdio: { kind: 'log', path: log }, terminal: true });
  const url = new URL(stdout);
  writeFileSync(join(dir, 'in'), 'hello');

  const script = url.searchParams.get('-c') ?? '';
  execFileSync('sh', ['-c', `exec 3<"$1/in" 5>"$1/ready"; exec "$2" -c "$3"`, 'sh', dir, url.pathname, script]);

  expect(terminal).toBe(true);
  expect(readFileSync(log, 'utf8')).toBe('hello');
  rmSync(dir, { recursive: true });
});

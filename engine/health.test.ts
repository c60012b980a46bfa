import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { expect, test } from 'vitest';
import { healthCheck } from '../core/contract/checkpoint.ts';
import type { Run, RunResult } from '../native/run/run.ts';
import { checkHealth } from './health.ts';
import type { OperationPlan } from './operation.ts';

const ANSWER: RunResult = {
  exitCode: 0,
  timedOut: false,
  cancelled: false,
  forceKilled: false,
  durationMs: 1,
  stdout: '',
  stderr: '',
};

const dir = mkdtempSync(`${tmpdir()}/kybernate-health-`);
const plan = (timeoutMs: number): OperationPlan =>
  ({
    container: { namespace: 'default', id: 'c1' },
    facts: { runcRoot: dir, initHostPid: process.pid, freezer: { version: 1, path: dir } },
    settings: { runcPath: 'runc' },
    health: { command: ['/bin/ask', 'now'], timeoutMs },
  }) as unknown as OperationPlan;

/** Answers with these exit codes in turn, the last one for ever. */
function answers(...codes: readonly number[]): { run: Run; asked: (readonly string[])[] } {
  const asked: (readonly string[])[] = [];
  const run: Run = (_file, args) => {
    asked.push(args);
    const exitCode = codes[Math.min(asked.length, codes.length) - 1] ?? 0;
    return Promise.resolve({ ...ANSWER, exitCode, stderr: exitCode === 0 ? '' : 'not yet\n' });
  };
  return { run, asked };
}

test('a workload that answers is healthy, and its command runs in its container', async () => {
  const { run, asked } = answers(0);

  expect(await checkHealth(run, plan(1000))).toMatchObject({ healthy: true, exitCode: 0 });
  expect(asked[0]?.slice(-3)).toEqual(['c1', '/bin/ask', 'now']);
});

test('a workload that needs a moment is asked again', async () => {
  expect(await checkHealth(answers(1, 0).run, plan(5000))).toMatchObject({ healthy: true });
});

test('a workload that does not answer in time is not healthy, with what it said', async () => {
  expect(await checkHealth(answers(3).run, plan(300))).toMatchObject({
    healthy: false,
    exitCode: 3,
    output: 'not yet',
  });
});

test('nobody is asked where no command was given', async () => {
  expect(await checkHealth(answers(0).run, { ...plan(1), health: undefined } as never)).toBeUndefined();
});

test('nobody waits longer than two minutes for a workload that does not answer', () => {
  expect(healthCheck.safeParse({ command: ['ask'], timeoutMs: 120_000 }).success).toBe(true);
  expect(healthCheck.safeParse({ command: ['ask'], timeoutMs: 120_001 }).success).toBe(false);
});

/* The checks that need no test runner, in the order of their cost: what each is called and what it runs. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '..');

/** Programs of node_modules start with `env node`: it must be the Node of the lock file. */
export const TOOL_ENV = { ...process.env, PATH: `${join(ROOT, 'node_modules', '.bin')}:${process.env['PATH'] ?? ''}` };

const LAYERED = [
  'core',
  'native',
  'engine',
  'store',
  'activities',
  'workflows',
  'workers',
  'client',
  'operator',
  'shim',
  'cli',
];

export interface CheckStep {
  readonly name: string;
  /** a program of node_modules/.bin and its arguments */
  readonly command: readonly [string, ...string[]];
}

export const CHECK_STEPS: readonly CheckStep[] = [
  { name: 'types', command: ['tsc', '-p', 'tsconfig.json'] },
  { name: 'types of the workflow sandbox', command: ['tsc', '-p', 'tsconfig.sandbox.json'] },
  { name: 'lint', command: ['oxlint', '--type-aware'] },
  {
    name: 'format',
    command: ['prettier', '--check', '--cache', '--cache-strategy', 'content', '--log-level', 'warn', '.'],
  },
  { name: 'layers', command: ['depcruise', '--config', '.dependency-cruiser.cjs', ...LAYERED] },
];

export interface CheckResult {
  readonly ok: boolean;
  readonly seconds: number;
  /** stdout and stderr as they came */
  readonly output: string;
}

/** Runs one check to its end; its output is kept for the case that it fails. */
export function runCheck(step: CheckStep): Promise<CheckResult> {
  const begin = performance.now();
  const [program, ...args] = step.command;
  const child = spawn(join(ROOT, 'node_modules', '.bin', program), args, {
    cwd: ROOT,
    env: TOOL_ENV,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => chunks.push(chunk));
  return new Promise((resolve) => {
    const end = (ok: boolean, more = ''): void => {
      const seconds = Math.round((performance.now() - begin) / 100) / 10;
      resolve({ ok, seconds, output: `${Buffer.concat(chunks).toString('utf8')}${more}` });
    };
    child.once('error', (error) => end(false, error.message));
    child.once('close', (code) => end(code === 0));
  });
}

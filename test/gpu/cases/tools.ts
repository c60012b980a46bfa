/* What the GPU's own commands say on a real machine, and our structures beside the driver's header. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { LAYOUT } from '../../../native/cuda/abi.ts';
import type { Case, CaseContext } from '../case.ts';
import { assert, assertEqual } from '../environment.ts';
import { startVram } from '../gpu-container.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

/** @returns stdout of `kybernate <args>`, as this environment's user would run it */
function kybernate({ env }: CaseContext, ...args: string[]): string {
  const result = spawnSync(process.execPath, [join(ROOT, 'cli/main.ts'), ...args], {
    encoding: 'utf8',
    timeout: 120_000,
    env: { ...process.env, ...env.variables },
  });
  assert(
    result.status === 0,
    `kybernate ${args.join(' ')} succeeds: ${result.status} ${result.stderr}${result.stdout}`,
  );
  return result.stdout;
}

function list(context: CaseContext): Promise<void> {
  const text = kybernate(context, 'gpu', 'list', '--json');
  context.record('list', JSON.parse(text));
  for (const { uuid } of context.machine.gpus) {
    assert(text.includes(uuid), `${uuid} is listed`);
  }
  return Promise.resolve();
}

function selfTest(context: CaseContext): Promise<void> {
  context.record('test', JSON.parse(kybernate(context, 'gpu', 'test', '--json')));
  return Promise.resolve();
}

async function status(context: CaseContext): Promise<void> {
  const { id } = await startVram(context, [64]);
  const text = kybernate(context, 'gpu', 'status', String(await context.env.initPid(id)), '--json');
  context.record('status', JSON.parse(text));
  assert(/running/.test(text), `the process runs: ${text}`);
}

/** Sizes, offsets and numbers of cuda.h, printed by a program that was compiled with it. */
function header(context: CaseContext): Promise<void> {
  const include = '/usr/local/cuda/include';
  assert(existsSync(join(include, 'cuda.h')), `${include}/cuda.h is there`);
  const program = join(context.env.scratchDir('abi'), 'abi-probe');
  const source = join(ROOT, 'native/verify/abi-probe.c');
  const compiled = spawnSync('gcc', ['-I', include, '-o', program, source], { encoding: 'utf8' });
  assert(compiled.status === 0, `abi-probe.c compiles: ${compiled.stderr}`);
  const printed = spawnSync(program, { encoding: 'utf8' }).stdout.trim().split('\n');
  const ours: Readonly<Record<string, Readonly<Record<string, number>>>> = LAYOUT;
  const values: Record<string, number> = {};
  for (const line of printed) {
    const [type = '', field = '', number] = line.split(' ');
    if (type === 'value') {
      values[field] = Number(number);
    } else {
      assertEqual(ours[type]?.[field], Number(number), `${type} ${field}`);
    }
  }
  context.record('cudaHeader', values);
  return Promise.resolve();
}

const real = (name: string, run: Case['run']): Case => ({ name, needs: 'gpu', real: true, timeoutMs: 150_000, run });

export const TOOL_CASES: readonly Case[] = [
  real('gpu-list', list),
  real('gpu-status', status),
  real('gpu-self-test', selfTest),
  real('gpu-header', header),
];

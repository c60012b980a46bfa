/*
 * node test/gpu/main.ts [--list] [--keep] [--withoutGpu] [cpu | gpu | two-gpus | <case>...]: the cases that need a real machine, each
 * through the real workflows. `--withoutGpu` runs the GPU cases with host memory instead, to try out the cases themselves.
 * Every case prints one JSON line; all of them with the machine's facts go to
 * $OUT/gpu-results.json. Started by test/gpu/run.sh, which unpacks what this needs.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { type Case, type CaseResult, errorText, runCase } from './case.ts';
import { CPU_CASES } from './cases/cpu.ts';
import { CUDA_CASES } from './cases/cuda.ts';
import { EXEC_CASES } from './cases/exec.ts';
import { KILLED_CASES } from './cases/killed.ts';
import { MEASURE_CASES } from './cases/measure.ts';
import { OUT_OF_MEMORY_CASES } from './cases/out-of-memory.ts';
import { POD_CASES } from './cases/pods.ts';
import { TOOL_CASES } from './cases/tools.ts';
import { TORCH_CASES } from './cases/torch.ts';
import { TWO_GPU_CASES } from './cases/two-gpus.ts';
import { Environment } from './environment.ts';
import { buildWorkloads } from './gpu-container.ts';
import { describeMachine, type Machine } from './machine.ts';

const CASES: readonly Case[] = [
  ...CPU_CASES,
  ...EXEC_CASES,
  ...TOOL_CASES,
  ...CUDA_CASES,
  ...MEASURE_CASES,
  ...TORCH_CASES,
  ...POD_CASES,
  ...OUT_OF_MEMORY_CASES,
  ...KILLED_CASES,
  ...TWO_GPU_CASES,
];
const GPUS_OF = { cpu: 0, gpu: 1, 'two-gpus': 2 } as const;

const began = performance.now();

function note(text: string): void {
  console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(7)}  ${text}`);
}

/** @throws when a word is neither a case nor a kind of case */
function chosenCases(words: readonly string[]): readonly Case[] {
  const unknown = words.filter((word) => !CASES.some(({ name, needs }) => word === name || word === needs));
  if (unknown.length > 0) {
    throw new Error(`no case ${unknown.join(', ')}; there are: ${CASES.map(({ name }) => name).join(' ')}`);
  }
  return CASES.filter(({ name, needs }) => words.length === 0 || words.includes(name) || words.includes(needs));
}

function writeResults(
  outDir: string,
  machine: Machine,
  results: readonly CaseResult[],
  notRun: readonly string[],
): void {
  mkdirSync(outDir, { recursive: true });
  const text = JSON.stringify({ at: new Date().toISOString(), machine, results, notRun }, undefined, 2);
  writeFileSync(join(outDir, 'gpu-results.json'), `${text}\n`);
}

interface Flags {
  /** leaves the environment up */
  readonly keep: boolean;
  readonly withoutGpu: boolean;
}

async function runCases(
  cases: readonly Case[],
  machine: Machine,
  outDir: string,
  { keep, withoutGpu }: Flags,
): Promise<boolean> {
  const possible = cases.filter(
    ({ needs, real }) => machine.gpus.length >= GPUS_OF[needs] || (withoutGpu && real !== true),
  );
  const notRun = cases.filter((one) => !possible.includes(one)).map(({ name }) => name);
  const env = await Environment.open(process.env, join(process.env['KYBERNATE_GPU_DIR'] ?? '.', 'images'), note);
  const results: CaseResult[] = [];
  try {
    for (const one of possible) {
      note(`${one.name} ...`);
      const result = await runCase(one, { env, machine, note });
      results.push(result);
      console.log(JSON.stringify(result));
      // After every case: a run that is ended from outside leaves what it has.
      writeResults(outDir, machine, results, notRun);
      if (!result.passed) {
        // It may have failed while its worker was killed.
        await env.startWorkers();
      }
    }
  } finally {
    if (!keep) {
      await env.close().catch((error: unknown) => note(`down: ${errorText(error)}`));
    }
  }
  const failed = results.filter(({ passed }) => !passed);
  if (notRun.length > 0) {
    note(`not run, too few GPUs: ${notRun.join(' ')}`);
  }
  failed.forEach(({ name, error }) => note(`FAILED ${name}: ${error}`));
  console.log(`${results.length - failed.length} passed, ${failed.length} failed`);
  return failed.length === 0;
}

const { values, positionals } = parseArgs({
  options: {
    list: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    withoutGpu: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
const cases = chosenCases(positionals);
if (values.list) {
  cases.forEach(({ name, needs }) => console.log(`${name} (${needs})`));
  process.exit(0);
}
const machine = describeMachine();
note(JSON.stringify(machine));
if (cases.some(({ needs }) => needs !== 'cpu')) {
  buildWorkloads(machine);
}
const passed = await runCases(cases, machine, process.env['OUT'] ?? 'out', values);
process.exit(passed ? 0 : 1);

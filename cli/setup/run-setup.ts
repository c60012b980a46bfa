/*
 * Runs the steps: first everything that only a person can provide, all of it named at once; then each step is checked,
 * installed when it is missing, and checked again.
 */
import { join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import type { TextStream } from '../output.ts';
import { startProgressLine } from './progress-line.ts';
import { cacheDir } from '../dev/paths.ts';
import type { Env } from './programs.ts';
import type { Check, Step } from './step.ts';

export interface StepResult {
  readonly name: string;
  readonly done: 'found' | 'installed';
  readonly version?: string;
  readonly detail: string;
  readonly seconds: number;
}

function seconds(begin: number): number {
  return Math.round((performance.now() - begin) / 100) / 10;
}

/** @throws Incompatible that lists every missing one with how to get it */
async function requireByHand(steps: readonly Step[], env: Env): Promise<void> {
  const missing: string[] = [];
  for (const step of steps) {
    const check = await step.check(env);
    if (!check.ok) {
      missing.push(`${step.name} (${step.why}): ${check.detail}`);
    }
  }
  if (missing.length > 0) {
    throw new KybernateError('Incompatible', `set-up needs, and cannot install:\n  ${missing.join('\n  ')}`, {
      details: { missing },
    });
  }
}

async function installStep(step: Step, before: Check, env: Env, stream: TextStream): Promise<StepResult> {
  const begin = performance.now();
  stream.write(`install  ${step.name}: ${step.why}; ${before.detail}\n`);
  const line = startProgressLine(stream, step.name);
  try {
    const slug = step.name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
    const logFile = join(cacheDir(env), 'logs', `setup-${slug}.log`);
    await step.install?.({ env, logFile, progress: (text) => line.set(text) });
  } finally {
    line.end();
  }
  const check = await step.check(env);
  if (!check.ok) {
    throw new KybernateError('Incompatible', `${step.name} was installed, but: ${check.detail}; ${step.remedy}`);
  }
  const result = resultOf(step, check, 'installed', seconds(begin));
  stream.write(`done     ${describe(result)}\n`);
  return result;
}

function resultOf(step: Step, check: Check, done: StepResult['done'], took: number): StepResult {
  const version = check.version === undefined ? {} : { version: check.version };
  return { name: step.name, done, ...version, detail: check.detail, seconds: took };
}

function describe(result: StepResult): string {
  const version = result.version === undefined ? '' : ` ${result.version}`;
  return `${result.name}${version}: ${result.detail}${result.done === 'installed' ? ` (${result.seconds} s)` : ''}`;
}

/**
 * Brings the machine to the state that the steps describe; a second run finds everything and changes nothing.
 * @param stream what is done, why and how long it took, line by line
 * @throws Incompatible naming what failed, the log and the remedy; what was installed before stays
 */
export async function runSetup(steps: readonly Step[], env: Env, stream: TextStream): Promise<StepResult[]> {
  await requireByHand(
    steps.filter((step) => step.install === undefined),
    env,
  );
  const results: StepResult[] = [];
  for (const step of steps) {
    const begin = performance.now();
    const check = await step.check(env);
    if (check.ok || step.install === undefined) {
      const result = resultOf(step, check, 'found', seconds(begin));
      results.push(result);
      stream.write(`ok       ${describe(result)}\n`);
    } else {
      results.push(await installStep(step, check, env, stream));
    }
  }
  return results;
}

/*
 * Does the workload answer? Its own command says so, run in the container as its hooks are. Asked after a workload was let
 * go, when nothing of the operation holds it any more: what it answers changes nothing but what is reported.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { HealthResult } from '../core/contract/checkpoint.ts';
import { messageOf } from '../core/errors.ts';
import type { Run } from '../native/run/run.ts';
import { execInContainer } from './gpu/hooks.ts';
import type { OperationPlan } from './operation.ts';

/** Between two tries: a workload that has just been let go may need a moment. */
const PAUSE_MS = 250;
const OUTPUT_CHARS = 1000;

type HealthPlan = Pick<OperationPlan, 'facts' | 'container' | 'health'> & {
  readonly settings: Pick<OperationPlan['settings'], 'runcPath'>;
};

/** Tries until the command succeeds or its time is over. @returns undefined where the request gave no command */
export async function checkHealth(run: Run, plan: HealthPlan): Promise<HealthResult | undefined> {
  if (plan.health === undefined) {
    return undefined;
  }
  const { command, timeoutMs } = plan.health;
  const from = performance.now();
  for (;;) {
    const leftMs = Math.max(1, Math.round(timeoutMs - (performance.now() - from)));
    const answer = await ask(run, plan, command, leftMs);
    const tookMs = Math.round(performance.now() - from);
    if (answer.healthy || tookMs + PAUSE_MS >= timeoutMs) {
      return { ...answer, tookMs };
    }
    await sleep(PAUSE_MS);
  }
}

async function ask(
  run: Run,
  plan: HealthPlan,
  command: readonly string[],
  timeoutMs: number,
): Promise<Omit<HealthResult, 'tookMs'>> {
  try {
    const result = await execInContainer(run, plan, command, { timeoutMs });
    const output = `${result.stderr}${result.stdout}`.trim().slice(-OUTPUT_CHARS);
    const why = result.timedOut ? `no answer within ${timeoutMs} ms; ` : '';
    return {
      healthy: result.exitCode === 0 && !result.timedOut,
      ...(result.exitCode === undefined ? {} : { exitCode: result.exitCode }),
      output: `${why}${result.startError ?? output}`,
    };
  } catch (error) {
    // Whatever it is, the workload was not heard: that is the result.
    return { healthy: false, output: messageOf(error) };
  }
}

/* The end of a capture that did not succeed: the source runs again, as far as anybody can tell from outside. */
import type { StepInput } from '../activities/contract.ts';
import type { HealthResult, ResumeResult } from '../core/contract/checkpoint.ts';
import type { Compensation } from './compensation.ts';
import { failure, RESUME } from './failures.ts';
import type { ProgressTracker } from './progress.ts';
import type { NodeProxies } from './proxies.ts';

export interface Rollback {
  readonly steps: NodeProxies;
  readonly step: StepInput;
  readonly undo: Compensation;
  readonly progress: ProgressTracker;
}

/**
 * Pushes the undo that everything else waits for: discarding a capture whose source may still be frozen would destroy the
 * only whole copy.
 */
export function pushResume({ steps, step, undo, progress }: Rollback): void {
  const resume = async (): Promise<ResumeResult> => {
    const result = await steps.undo.resumeContainer(step);
    progress.rolledBack(result);
    const { health } = result;
    if (health?.healthy === false) {
      const { container } = step.context;
      throw failure(
        'Poisoned',
        `container ${container.namespace}/${container.id} was let go and runs, but its health command fails: ${healthText(health)}`,
        { rollback: result, remedy: 'nothing of the operation holds it any more: look at the workload itself' },
      );
    }
    return result;
  };
  undo.push(RESUME, resume, { barrier: true });
}

/** What a source that was let go says for itself, for the result. */
export function resumeWarnings({ by, guard, health }: ResumeResult): string[] {
  const byWorker = by === 'worker' ? ['the runner died while the source stood still: the worker let it run on'] : [];
  const byOthers = guard === undefined ? byWorker : [`${GUARD_CAUSES[guard]}: the freeze guard let it run on`];
  return health?.healthy === false
    ? [...byOthers, `the health command of the source fails after its checkpoint: ${healthText(health)}`]
    : byOthers;
}

function healthText({ exitCode, output }: HealthResult): string {
  return output === '' ? `exit code ${exitCode}` : output;
}

const GUARD_CAUSES: Readonly<Record<NonNullable<ResumeResult['guard']>, string>> = {
  'runner-gone': 'the runner died while the source stood still',
  'freeze-budget': 'the runner hung past the freeze budget',
  'hold-budget': 'the runner hung past the hold budget',
};

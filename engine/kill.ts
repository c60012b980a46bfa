/* Ends a frozen container for good. */
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../core/errors.ts';
import { thaw } from './freezer.ts';
import { liveProcesses } from './live-processes.ts';
import type { OperationPlan } from './operation.ts';
import { initIsAlive } from './verify-running.ts';

const GONE_MS = 10_000;

/**
 * SIGKILL is queued for every process while all stand still, then the freezer opens: a killed task runs no further
 * instruction of its own when it wakes. Killing init alone would let the others run for a moment.
 * @throws Poisoned when init outlives it
 */
export async function killFrozen(plan: OperationPlan): Promise<void> {
  for (const process of liveProcesses(plan.facts)) {
    try {
      globalThis.process.kill(process.hostPid, 'SIGKILL');
    } catch {
      // ESRCH: already gone.
    }
  }
  await thaw(plan.facts.freezer);
  const deadline = performance.now() + GONE_MS;
  while (initIsAlive(plan)) {
    if (performance.now() > deadline) {
      throw new KybernateError(
        'Poisoned',
        `process ${plan.facts.initHostPid} of ${plan.container.id} survives SIGKILL`,
      );
    }
    await sleep(5);
  }
}

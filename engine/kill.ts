/* Ends a frozen container for good. */
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../core/errors.ts';
import { silenceConnections } from '../native/net/tcp-silence.ts';
import { thaw } from './freezer.ts';
import { holdsConnections } from './network-locks.ts';
import { liveConnections, liveProcesses } from './live-processes.ts';
import type { OperationPlan } from './operation.ts';
import { initIsAlive } from './verify-running.ts';

const GONE_MS = 10_000;

/**
 * SIGKILL is queued for every process while all stand still, then the freezer opens: a killed task runs no further
 * instruction of its own when it wakes. Killing init alone would let the others run for a moment.
 * Connections that the capture keeps for the restore end without a word to their peers.
 * @throws Poisoned when init outlives it
 */
export async function killFrozen(plan: OperationPlan): Promise<void> {
  if (holdsConnections(plan)) {
    const inodes = new Set(liveConnections(plan.facts).map((connection) => connection.inode));
    for (const process of liveProcesses(plan.facts)) {
      silenceConnections(process.hostPid, inodes);
    }
  }
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

/*
 * Undoes the frozen section of a capture, whatever point it had reached, whoever died. The order matters: CRIU is ended
 * first, since it needs its tasks to be able to run to leave them as it found them; then the freezer is closed, since a
 * task must not run while its sockets are in repair mode or its packets are dropped; both end before the thaw.
 */
import type { ResumeResult } from '../core/contract/checkpoint.ts';
import type { Logger } from '../core/op.ts';
import { leaveTcpRepair } from '../native/net/tcp-repair.ts';
import type { Run } from '../native/run/run.ts';
import { endDump } from './end-dump.ts';
import { freezeNow, thaw } from './freezer.ts';
import { messageOf } from '../core/errors.ts';
import { tryAppendJournal } from './journal.ts';
import { liveProcesses } from './live-processes.ts';
import { operationPaths, type OperationPlan } from './operation.ts';
import { initIsAlive, removeNetworkLocks, verifyRunning } from './verify-running.ts';

/**
 * Idempotent; the caller holds the container's flock.
 * @throws Poisoned when the workload does not verifiably run afterwards
 * Crash: every step may be done again; the journal's last entry is `undone begin`.
 */
export async function undoCapture(plan: OperationPlan, run: Run, log: Logger): Promise<ResumeResult> {
  const journal = operationPaths(plan.settings, plan.operationId).journal;
  tryAppendJournal(journal, { step: 'undone', state: 'begin' }, log);
  const killed = await endDump(plan, run);
  if (initIsAlive(plan)) {
    freezeNow(plan.facts.freezer);
  }
  const failed = (error: unknown): void =>
    // The workload runs whatever happens; what is left of the dump is seen by the verification.
    log.error({ operationId: plan.operationId, error: messageOf(error) }, 'a part of the undo failed');
  for (const process of liveProcesses(plan.facts)) {
    try {
      leaveTcpRepair(process.hostPid);
    } catch (error) {
      failed(error);
    }
  }
  await removeNetworkLocks(plan, run).catch(failed);
  await thaw(plan.facts.freezer);
  const result = await verifyRunning(plan, run);
  tryAppendJournal(journal, { step: 'undone', state: 'done', data: { ...result, killed } }, log);
  log.warn({ operationId: plan.operationId, killed, source: result.source }, 'capture undone');
  return result;
}

/*
 * Undoes the frozen section of a capture, whatever point it had reached, whoever died. The order matters: a CRIU that
 * dies lets its tasks run at once, in the middle of its own work, so the freezer is closed first; a task must not run
 * while its sockets are in repair mode or its packets are dropped, so both end before the thaw.
 */
import type { ResumeResult } from '../core/contract/checkpoint.ts';
import type { Logger } from '../core/op.ts';
import { leaveTcpRepair } from '../native/net/tcp-repair.ts';
import { listProcesses } from '../native/proc/tree.ts';
import type { Run } from '../native/run/run.ts';
import { freezeNow, thaw } from './freezer.ts';
import { appendJournal } from './journal.ts';
import { liveProcesses } from './live-processes.ts';
import { killOperation } from './operation-cgroup.ts';
import { operationPaths, type OperationPlan } from './operation.ts';
import { initIsAlive, removeNetworkLocks, verifyRunning } from './verify-running.ts';

/**
 * Idempotent; the caller holds the container's flock.
 * @throws Poisoned when the workload does not verifiably run afterwards
 * Crash: every step may be done again; the journal's last entry is `undone begin`.
 */
export async function undoCapture(plan: OperationPlan, run: Run, log: Logger): Promise<ResumeResult> {
  const journal = operationPaths(plan.settings, plan.operationId).journal;
  appendJournal(journal, { step: 'undone', state: 'begin' });
  if (initIsAlive(plan)) {
    freezeNow(plan.facts.freezer);
  }
  const killed = [...(await killOperation(plan.operationId, 'work')), ...killForeignDump(plan)];
  for (const process of liveProcesses(plan.facts)) {
    leaveTcpRepair(process.hostPid);
  }
  await removeNetworkLocks(plan, run);
  await thaw(plan.facts.freezer);
  const result = await verifyRunning(plan, run);
  appendJournal(journal, { step: 'undone', state: 'done', data: { ...result, killed } });
  log.warn({ operationId: plan.operationId, killed, source: result.source }, 'capture undone');
  return result;
}

/**
 * With the engine `containerd` runc and CRIU are children of the shim, outside the operation's cgroup. They are known
 * by the image directory in runc's arguments; CRIU is below that runc.
 */
function killForeignDump(plan: OperationPlan): number[] {
  if (plan.engine !== 'containerd') {
    return [];
  }
  const processes = listProcesses();
  const doomed = new Set(
    processes.filter((process) => process.commandLine.includes(plan.checkpointDir)).map((process) => process.hostPid),
  );
  for (let before = -1; before !== doomed.size;) {
    before = doomed.size;
    for (const process of processes) {
      if (doomed.has(process.parentHostPid)) {
        doomed.add(process.hostPid);
      }
    }
  }
  doomed.delete(globalThis.process.pid);
  for (const pid of doomed) {
    try {
      globalThis.process.kill(pid, 'SIGKILL');
    } catch {
      // ESRCH: ended by itself.
    }
  }
  return [...doomed];
}

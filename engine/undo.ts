/*
 * Undoes the frozen section of a capture, whatever point it had reached, whoever died. The order matters: CRIU is ended
 * first, since it needs its tasks to be able to run to leave them as it found them; then the freezer is closed, since a
 * task must not run while its sockets are in repair mode or its packets are dropped; both end before the thaw. The GPU
 * comes after the thaw: a call of its driver hangs on a process that stands still.
 */
import type { ResumeResult } from '../core/contract/checkpoint.ts';
import type { Logger } from '../core/op.ts';
import { leaveTcpRepair, socketsInRepair } from '../native/net/tcp-repair.ts';
import { endDump } from './end-dump.ts';
import { freezeNow, thaw } from './freezer.ts';
import { hasGpu, resumeGpuSection } from './gpu-section.ts';
import { messageOf } from '../core/errors.ts';
import { mayHoldGpu, mayStandStill, readJournal, tryAppendJournal, type JournalEntry } from './journal.ts';
import { removeLinkRemaps } from './link-remap.ts';
import { liveProcesses } from './live-processes.ts';
import type { NodeDeps } from './node-deps.ts';
import { takeBack } from './set-aside.ts';
import { operationPaths, type OperationPlan } from './operation.ts';
import { initIsAlive, removeNetworkLocks, verifyRunning } from './verify-running.ts';

const TOLD_LINKS = 16;

export type UndoDeps = Pick<NodeDeps, 'run' | 'gpu'>;

/** Whose process undoes: told in the journal and by the results. */
export type Undoer = NonNullable<ResumeResult['by']>;

/**
 * Idempotent; the caller holds the container's flock.
 * @throws Poisoned when the workload does not verifiably run afterwards
 * Crash: every step may be done again; the journal's last entry is `undone begin`.
 */
export async function undoCapture(plan: OperationPlan, deps: UndoDeps, log: Logger, by: Undoer): Promise<ResumeResult> {
  const { journal } = operationPaths(plan.settings, plan.operationId);
  const entries = entriesOf(plan, log);
  // Without a journal everything may have happened.
  const stoodStill = entries === undefined || mayStandStill(entries);
  const heldGpu = hasGpu(plan) && (entries === undefined || mayHoldGpu(entries));
  tryAppendJournal(journal, { step: 'undone', state: 'begin', data: { by } }, log);
  const killed = await endDump(plan, deps.run);
  await takeBack(plan, log);
  if (stoodStill) {
    // A source that was to end, and has: what holds its connections for the restore stays.
    const ended = entries?.some(({ step }) => step === 'killed') === true && !initIsAlive(plan);
    await undoDump(plan, deps, log, !ended);
  }
  await thaw(plan.facts.freezer);
  if (heldGpu) {
    await resumeGpuSection({ plan, log, ...deps });
  }
  const result = { ...(await verifyRunning(plan, deps, log)), by };
  tryAppendJournal(journal, { step: 'undone', state: 'done', data: { ...result, killed } }, log);
  log.warn({ operationId: plan.operationId, killed, source: result.source, by }, 'capture undone');
  if (stoodStill) {
    await dropLinks(plan, entries, log);
  }
  return result;
}

/**
 * A walk through the workload's files may take a while, so the journal says before it that the workload runs: otherwise a
 * guard takes its runner for one that hangs. A crash leaves the links.
 */
async function dropLinks(
  plan: OperationPlan,
  entries: readonly JournalEntry[] | undefined,
  log: Logger,
): Promise<void> {
  const { operationId } = plan;
  try {
    const { removed, isWhole } = await removeLinkRemaps(plan, Date.parse(entries?.[0]?.at ?? new Date().toISOString()));
    if (removed.length > 0) {
      const told = { operationId, links: removed.length, some: removed.slice(0, TOLD_LINKS), isWhole };
      log.info(told, 'links of a dump that ended in the middle were removed');
    }
  } catch (error) {
    log.error({ operationId: plan.operationId, error: messageOf(error) }, 'links of a dump could not be removed');
  }
}

/** @returns undefined when there is a journal that cannot be read: everything may have happened */
export function entriesOf(plan: OperationPlan, log: Logger): readonly JournalEntry[] | undefined {
  try {
    return readJournal(operationPaths(plan.settings, plan.operationId).journal);
  } catch (error) {
    log.error({ error: messageOf(error) }, 'the journal cannot be read');
    return undefined;
  }
}

/** What a dump that ended in the middle leaves in the processes' sockets and in their network. */
async function undoDump(plan: OperationPlan, deps: UndoDeps, log: Logger, freesNetwork: boolean): Promise<void> {
  if (initIsAlive(plan) && mustStandStill(plan)) {
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
  if (freesNetwork) {
    await removeNetworkLocks(plan, deps.run).catch(failed);
  }
}

/** A stop by signals is seen by the tree's parents: only for the sake of sockets that cannot be used as they are. */
function mustStandStill({ facts }: OperationPlan): boolean {
  return (
    facts.freezer.version !== 'signals' ||
    liveProcesses(facts).some((process) => socketsInRepair(process.hostPid).length > 0)
  );
}

/*
 * Reads back whether a container's processes really run on: the end of every capture, failed or not. A check that does
 * not hold after a short while means `Poisoned`: something of the operation still holds the workload.
 */
import { statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../core/errors.ts';
import type { ResumeResult } from '../core/contract/checkpoint.ts';
import type { Logger } from '../core/op.ts';
import { deleteTable, type NetworkNamespaceRef, type NftTable } from '../native/net/nft.ts';
import { namespaceInode } from '../native/proc/ns.ts';
import { numericEntries } from '../native/proc/read.ts';
import { readProcess } from '../native/proc/tree.ts';
import { socketsInRepair } from '../native/net/tcp-repair.ts';
import type { Run } from '../native/run/run.ts';
import { freezerState } from './freezer.ts';
import { gpuRuns, hasGpu } from './gpu-section.ts';
import { liveProcesses } from './live-processes.ts';
import { dumpLogPlaces, networkHoldTable, networkLockTables } from './network-locks.ts';
import type { NodeDeps } from './node-deps.ts';
import { operationPaths, type OperationPlan } from './operation.ts';

const SETTLE_MS = 2000;

/** Is the captured init process still the same one? */
export function initIsAlive(plan: OperationPlan): boolean {
  const init = readProcess(plan.facts.initHostPid);
  return init !== undefined && init.startTime === plan.facts.initStartTime && init.state !== 'Z';
}

/**
 * @returns `gone` when the container ended by itself: then nothing of ours can hold it
 * @throws Poisoned with what was seen
 */
export async function verifyRunning(
  plan: OperationPlan,
  deps: Pick<NodeDeps, 'run' | 'gpu'>,
  log: Logger,
  settleMs = SETTLE_MS,
): Promise<ResumeResult> {
  const deadline = performance.now() + settleMs;
  for (;;) {
    if (!initIsAlive(plan)) {
      return { source: 'gone', checks: {} };
    }
    const checks = await runningChecks(plan, deps, log);
    const failed = Object.keys(checks).filter((name) => !checks[name]);
    if (failed.length === 0) {
      return { source: 'running', checks, ...seenProcesses(plan) };
    }
    if (performance.now() > deadline) {
      throw new KybernateError(
        'Poisoned',
        `container ${plan.container.namespace}/${plan.container.id} on ${plan.settings.node} was let go, but does not ` +
          `verifiably run: ${failed.join(', ')} not as expected`,
        { details: { checks, ...seenProcesses(plan), freezer: freezerState(plan.facts.freezer) } },
      );
    }
    await sleep(50);
  }
}

/** Told in results and errors, which cross Temporal. */
const TOLD_PROCESSES = 64;

function seenProcesses({ facts }: OperationPlan): Required<Pick<ResumeResult, 'processes' | 'processCount'>> {
  const seen = liveProcesses(facts)
    .filter(({ state }) => state !== 'Z')
    .map(({ hostPid, startTime }) => ({ hostPid, startTime }))
    .sort((a, b) => a.startTime - b.startTime || a.hostPid - b.hostPid);
  return { processes: seen.slice(0, TOLD_PROCESSES), processCount: seen.length };
}

async function runningChecks(
  plan: OperationPlan,
  deps: Pick<NodeDeps, 'run' | 'gpu'>,
  log: Logger,
): Promise<Record<string, boolean>> {
  const processes = liveProcesses(plan.facts);
  const tables = await lockTables(plan, deps.run, plan.facts.initHostPid);
  return {
    freezerThawed: freezerState(plan.facts.freezer) === 'thawed',
    notTraced: processes.every((process) => process.tracerPid === 0),
    // A process that its user had stopped (T) before the capture is not ours to judge.
    notStopped: processes.every((process) => process.state !== 't'),
    noSocketInRepair: processes.every((process) => socketsInRepair(process.hostPid).length === 0),
    noNetworkLock: tables.length === 0,
    ...(hasGpu(plan) ? { gpuRunning: await gpuRuns({ plan, log, ...deps }) } : {}),
  };
}

/**
 * Removes what CRIU and we put into the container's network namespace, also where the container has ended and others still
 * live in it. Absent tables are success.
 */
export async function removeNetworkLocks(plan: OperationPlan, run: Run): Promise<void> {
  const namespace = networkNamespaceOf(plan);
  if (namespace === undefined) {
    return;
  }
  for (const table of await lockTables(plan, run, namespace)) {
    await deleteTable(run, namespace, table);
  }
}

/** By its inode: a process that lives in it, or the path by which the container joined it; undefined when it is gone. */
function networkNamespaceOf(plan: OperationPlan): NetworkNamespaceRef | undefined {
  const { initHostPid, networkNamespace } = plan.facts;
  if (initIsAlive(plan)) {
    return initHostPid;
  }
  const { path, inode } = networkNamespace;
  if (path !== undefined && statSync(path, { throwIfNoEntry: false })?.ino === inode) {
    return path;
  }
  return numericEntries('/proc').find((pid) => namespaceInode(pid, 'net') === inode);
}

function lockTables(plan: OperationPlan, run: Run, namespace: NetworkNamespaceRef): Promise<NftTable[]> {
  const owner = {
    namespace,
    privateNetwork: plan.facts.networkNamespace.private,
    dumpLogs: dumpLogPlaces(operationPaths(plan.settings, plan.operationId).dir, plan.checkpointDir),
    holdTable: networkHoldTable(plan.operationId),
  };
  return networkLockTables(owner, run);
}

/* Strikes: waiting for the moment that the plan names, finding who is to be hit, and hitting. */
import { randomUUID } from 'node:crypto';
import { rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findShims } from '../../cli/dev/containerd-traces.ts';
import { assertNever, messageOf } from '../../core/errors.ts';
import { operationPids } from '../../engine/operation-cgroup.ts';
import { readJson } from '../../engine/operation.ts';
import { type ListedProcess, listProcesses, readProcess } from '../../native/proc/tree.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import type { Fault } from '../harness/s3-proxy.ts';
import type { Job } from './jobs.ts';
import { lastStep, operationOf, reached, type Target } from './moments.ts';
import { actName, type Strike, type Victim } from './plan.ts';
import type { Rig } from './rig.ts';

const POLL_MS = 5;
/** How long a process that is to be killed is waited for. */
const APPEAR_MS = 10_000;
const APPEAR_POLL_MS = 15;
/** Runc and CRIU are there for little longer. */
const MOST_DELAY_MS = 100;
const FILLER = 'filler';

export interface Hit {
  readonly what: string;
  readonly job: string;
  /** ms since 1970 */
  readonly at: number;
  /** processes that were killed */
  readonly kills: number;
  readonly victim?: Victim;
  /** where the operation was, as its journal told */
  readonly step: string;
}

/** Waits and hits. Never rejects; nobody there to be hit is a hit of zero. */
export async function strike(rig: Rig, target: Target, { at, delayMs, act }: Strike): Promise<Hit> {
  while (target.ended === undefined && !reached(rig, target, at)) {
    await sleep(POLL_MS);
  }
  await sleep(delayMs);
  const step = lastStep(rig, target);
  const when = Date.now();
  let kills = 0;
  let failed = '';
  try {
    kills =
      act.kind === 'kill'
        ? await killVictims(rig, target, { victim: act.victim, delayMs })
        : await hit(rig, target, act);
  } catch (error) {
    // A server that was asked is down itself: the strike did nothing.
    failed = ` (${messageOf(error)})`;
  }
  const victim = act.kind === 'kill' ? { victim: act.victim } : {};
  return { what: `${actName(act)}${failed}`, job: target.job.id, at: when, kills, step, ...victim };
}

async function hit(rig: Rig, target: Target, act: Exclude<Strike['act'], { kind: 'kill' }>): Promise<number> {
  switch (act.kind) {
    case 'kill-service':
      rig.delays.set(act.service, act.restartMs);
      return killAll([rig.pidOf(act.service) ?? 0]);
    case 'cut-store':
      await cutStore(rig, act.how, act.ms);
      return 0;
    case 'fill-disk':
      await fillDisk(rig, act.leftBytes, act.ms);
      return 0;
    case 'cancel':
      await rig.temporalClient.workflow.getHandle(target.workflowId).cancel();
      return 0;
    case 'terminate':
      await rig.temporalClient.workflow.getHandle(target.workflowId).terminate('by the chaos run');
      return 0;
    case 'reset':
      await resetWorkflow(rig, target.workflowId);
      return 0;
    default:
      return assertNever(act);
  }
}

/** To the newest task that it has completed: the steps since then are done again by a run with another id. */
async function resetWorkflow(rig: Rig, workflowId: string): Promise<void> {
  const handle = rig.temporalClient.workflow.getHandle(workflowId);
  const { runId } = await handle.describe();
  const { events } = await handle.fetchHistory();
  const done = (events ?? []).filter(
    (event) =>
      event.workflowTaskCompletedEventAttributes !== undefined && event.workflowTaskCompletedEventAttributes !== null,
  );
  const point = done.at(-Math.min(done.length, 2));
  if (point?.eventId === undefined || point.eventId === null) {
    return;
  }
  await rig.temporalClient.workflowService.resetWorkflowExecution({
    namespace: rig.temporal.namespace,
    workflowExecution: { workflowId, runId },
    reason: 'by the chaos run',
    workflowTaskFinishEventId: point.eventId,
    requestId: randomUUID(),
  });
}

const FAULTS: Record<'refuse' | 'cut' | 'lose', Fault> = {
  refuse: { kind: 'answer', status: 503, code: 'SlowDown' },
  cut: { kind: 'cut request', afterBytes: 1000 },
  lose: { kind: 'lose answer' },
};

async function cutStore(rig: Rig, how: 'refuse' | 'cut' | 'lose', ms: number): Promise<void> {
  rig.proxy.script(
    ...['GET', 'PUT', 'POST', 'HEAD', 'DELETE'].map((method) => ({ method, key: '', fault: FAULTS[how] })),
  );
  await sleep(ms);
  rig.proxy.script();
}

async function fillDisk(rig: Rig, leftBytes: number, ms: number): Promise<void> {
  const file = join(rig.stateDir, FILLER);
  const { bavail, bsize } = statfsSync(rig.stateDir);
  try {
    writeFileSync(file, '');
    await runExeca('fallocate', ['-l', String(Math.max(1, bavail * bsize - leftBytes)), file]);
    await sleep(ms);
  } finally {
    truncateSync(file, 0);
    rmSync(file, { force: true });
  }
}

function killAll(pids: readonly number[]): number {
  let killed = 0;
  for (const pid of pids.filter((one) => one > 1 && readProcess(one) !== undefined)) {
    try {
      process.kill(pid, 'SIGKILL');
      killed += 1;
    } catch {
      // ESRCH: it ended by itself.
    }
  }
  return killed;
}

/** One that is not there yet is hit when it has been there for the delay. */
async function killVictims(rig: Rig, target: Target, { victim, delayMs }: Blow): Promise<number> {
  const killed = killAll(victims(rig, target, victim));
  if (killed > 0) {
    return killed;
  }
  const deadline = performance.now() + APPEAR_MS;
  while (performance.now() < deadline && target.ended === undefined) {
    await sleep(APPEAR_POLL_MS);
    if (victims(rig, target, victim).length > 0) {
      await sleep(Math.min(delayMs, MOST_DELAY_MS));
      return killAll(victims(rig, target, victim));
    }
  }
  return 0;
}

interface Blow {
  readonly victim: Victim;
  readonly delayMs: number;
}

/** Pids to be killed; of several CRIUs of one dump the first is the one that has the others. */
function victims(rig: Rig, target: Target, victim: Victim): number[] {
  const { job } = target;
  if (victim === 'shim') {
    return findShims(rig.tools.address)
      .filter(({ id, namespace }) => id === job.id && namespace === rig.namespace)
      .map(({ pid }) => pid);
  }
  const operation = operationOf(rig, target);
  if (victim === 'runner' || victim === 'guard') {
    const file = operation === undefined ? undefined : readJson(join(operation, `${victim}.json`));
    const pid = (file as { readonly pid?: number } | undefined)?.pid;
    return pid === undefined ? [] : [pid];
  }
  const own = new Set(operation === undefined ? [] : operationPids(basename(operation)));
  const all = listProcesses();
  const byPid = new Map(all.map((process) => [process.hostPid, process]));
  return all
    .filter((process) => isVictim(process, victim))
    .filter((process) => own.has(process.hostPid) || concerns(process, byPid, rig, job))
    .map(({ hostPid }) => hostPid);
}

function isVictim({ command, commandLine }: ListedProcess, victim: Victim): boolean {
  return victim === 'wrapper' ? /kybernate-wrapper|shim\/wrapper/.test(commandLine) : command === victim;
}

/** It, or who started it, works on this job's container. */
function concerns(process: ListedProcess, byPid: ReadonlyMap<number, ListedProcess>, rig: Rig, job: Job): boolean {
  for (let one: ListedProcess | undefined = process, depth = 0; one !== undefined && depth < 5; depth += 1) {
    if (one.commandLine.includes(`/${rig.namespace}/`) && one.commandLine.split(' ').includes(job.id)) {
      return true;
    }
    one = byPid.get(one.parentHostPid);
  }
  return false;
}

/* Strikes: waiting for the moment that the plan names, finding who is to be hit, and hitting. */
import { randomUUID } from 'node:crypto';
import { existsSync, readdirSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findShims } from '../../cli/dev/containerd-traces.ts';
import { assertNever, messageOf } from '../../core/errors.ts';
import { readJournal } from '../../engine/journal.ts';
import { operationPids } from '../../engine/operation-cgroup.ts';
import { readJson } from '../../engine/operation.ts';
import { type ListedProcess, listProcesses, readProcess } from '../../native/proc/tree.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import type { Fault } from '../harness/s3-proxy.ts';
import type { Job } from './jobs.ts';
import type { Outcome } from './operate.ts';
import { actName, type Strike, type Victim } from './plan.ts';
import type { Rig } from './rig.ts';

const POLL_MS = 4;
/** How long a process that is to be killed is waited for. */
const APPEAR_MS = 1500;
const FILLER = 'filler';

/** The operation of a job in this round. */
export interface Target {
  readonly job: Job;
  readonly workflowId: string;
  readonly checkpointId: string;
  /** set when it has ended */
  ended?: Outcome;
}

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
    kills = await hit(rig, target, act);
  } catch (error) {
    // A server that was asked is down itself: the strike did nothing.
    failed = ` (${messageOf(error)})`;
  }
  const victim = act.kind === 'kill' ? { victim: act.victim } : {};
  return { what: `${actName(act)}${failed}`, job: target.job.id, at: when, kills, step, ...victim };
}

async function hit(rig: Rig, target: Target, act: Strike['act']): Promise<number> {
  switch (act.kind) {
    case 'kill-service':
      rig.delays.set(act.service, act.restartMs);
      return killAll([rig.pidOf(act.service) ?? 0]);
    case 'kill':
      return killVictims(rig, target, act.victim);
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

async function killVictims(rig: Rig, target: Target, victim: Victim): Promise<number> {
  const deadline = performance.now() + APPEAR_MS;
  do {
    const killed = killAll(victims(rig, target, victim));
    if (killed > 0) {
      return killed;
    }
    await sleep(POLL_MS);
  } while (performance.now() < deadline && target.ended === undefined);
  return 0;
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
  if (victim === 'runner') {
    const state =
      operation === undefined ? undefined : (readJson(join(operation, 'runner.json')) as { pid?: number } | undefined);
    return state?.pid === undefined ? [] : [state.pid];
  }
  const own = new Set(operation === undefined ? [] : operationPids(basename(operation)));
  const all = listProcesses();
  if (victim === 'guard') {
    return all
      .filter(
        ({ commandLine }) =>
          operation !== undefined && commandLine.includes(basename(operation)) && /guard/.test(commandLine),
      )
      .map(({ hostPid }) => hostPid);
  }
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

/** Directory of the target's operation on the node, while there is one. */
export function operationOf(rig: Rig, { job, checkpointId }: Target): string | undefined {
  const dir = join(rig.runDir, 'operations');
  const names = existsSync(dir) ? readdirSync(dir) : [];
  names.forEach((name) => rig.operationsSeen.add(name));
  const dirs = names.map((name) => join(dir, name));
  return dirs.find((one) => {
    const record = planOf(one);
    return record?.container?.id === job.id && record.checkpointId === checkpointId;
  });
}

interface PlanOrRestore {
  readonly checkpointId?: string;
  readonly container?: { readonly id: string };
  readonly state?: string;
}

function planOf(dir: string): PlanOrRestore | undefined {
  return (readJson(join(dir, 'plan.json')) ?? readJson(join(dir, 'restore.json'))) as PlanOrRestore | undefined;
}

/** Has the operation come to this moment? */
export function reached(rig: Rig, target: Target, at: string): boolean {
  if (at === 'start') {
    return true;
  }
  if (at === 'committed') {
    return existsSync(join(rig.stateDir, 'checkpoints', `checkpoint-${target.checkpointId}`, 'metadata.json'));
  }
  const operation = operationOf(rig, target);
  return operation !== undefined && stepsOf(operation).includes(at);
}

function stepsOf(operation: string): string[] {
  const steps = readJournal(join(operation, 'journal.jsonl')).map(({ step, state }) => `${step} ${state}`);
  const restore = planOf(operation)?.state;
  return restore === undefined ? steps : [...steps, restore];
}

function lastStep(rig: Rig, target: Target): string {
  const operation = operationOf(rig, target);
  const ended = target.ended === undefined ? 'under way' : 'ended';
  return (operation === undefined ? undefined : stepsOf(operation).at(-1)) ?? ended;
}

/*
 * Ends a dump that must not go on. CRIU works inside the processes that it dumps: for some milliseconds a process has
 * foreign code in its memory and foreign registers, and a CRIU that is killed then takes the process with it (seen:
 * SIGKILL 20 ms after the freeze ended a Python server). So CRIU is first made to fail by itself, which it does
 * cleanly: with no file descriptor left it cannot open its next image. Only a CRIU that does not come to that point is
 * killed: it is then copying pages, or waits in our script, and the process's side ends by itself at the closed socket.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupPids } from '../native/proc/cgroup.ts';
import { openFds } from '../native/proc/fds.ts';
import { readProc } from '../native/proc/read.ts';
import { listProcesses, readProcess } from '../native/proc/tree.ts';
import type { Run } from '../native/run/run.ts';
import { freezeNow } from './freezer.ts';
import { killOperation, operationPids } from './operation-cgroup.ts';
import type { OperationPlan } from './operation.ts';

/** Begin of the names of containerd's shims, whose `comm` is cut at 15 characters. */
const SHIM = 'containerd-shim';

/** Time for CRIU to notice and to leave the processes as it found them. */
export const DUMP_GRACE_MS = 700;
/** On a machine that has no time for it, as long as it is at work: a workload may stand still for its budget and a second. */
const STARVED_GRACE_MS = 1500;
/** Who has not run for so long waits for something that does not come. */
const IDLE_MS = 200;

/**
 * Idempotent; nothing to end is success.
 * @param mayFreeze asked right before the freezer is closed; a caller without the container's flock may come too late
 * @returns pids that had to be killed, after CRIU had its grace
 */
export async function endDump(plan: OperationPlan, run: Run, mayFreeze = (): boolean => true): Promise<number[]> {
  const criu = dumpPids(plan).filter(isCriu);
  if (criu.length > 0) {
    await Promise.all(criu.map((pid) => run('prlimit', [`--pid=${pid}`, '--nofile=0:'], { timeoutMs: 2000 })));
    await untilEnded(criu);
    if (criu.some(isCriu) && mayFreeze()) {
      // Its tasks run when it dies: into the freezer, so that none touches a socket in repair mode.
      freezeNow(plan.facts.freezer);
    }
  }
  const foreign = foreignDumpPids(plan);
  for (const pid of foreign) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // ESRCH: ended by itself.
    }
  }
  return [...(await killOperation(plan.operationId)), ...foreign];
}

/** One that has ended and that its parent has not seen yet is none. */
function isCriu(pid: number): boolean {
  const process = readProcess(pid);
  return process?.command === 'criu' && process.state !== 'Z';
}

/** Returns also when they wait for something, or take too long. */
async function untilEnded(pids: readonly number[]): Promise<void> {
  const begun = performance.now();
  let work = '';
  let workedAt = begun;
  while (pids.some(isCriu)) {
    const now = performance.now();
    const seen = workOf(pids);
    if (seen === undefined || seen !== work) {
      workedAt = now;
    }
    work = seen ?? work;
    if (now > begun + STARVED_GRACE_MS || (now > begun + DUMP_GRACE_MS && now > workedAt + IDLE_MS)) {
      return;
    }
    await sleep(5);
  }
}

/**
 * Times that they have run and have waited for a processor; undefined while one of them waits for it.
 * Source: kernel Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
 */
function workOf(pids: readonly number[]): string | undefined {
  return pids.some((pid) => readProcess(pid)?.state === 'R')
    ? undefined
    : pids.map((pid) => readProc(`/proc/${pid}/schedstat`)?.trim() ?? '').join(' ');
}

function dumpPids(plan: OperationPlan): number[] {
  return [...operationPids(plan.operationId), ...foreignDumpPids(plan)];
}

/**
 * With the engine `containerd` runc and CRIU are children of the shim, outside the operation's cgroup. That runc is known
 * by its parent and by the image directory in its arguments: the directory alone also stands in those of a `tail` or an
 * editor that somebody has on it. CRIU is below that runc, or has lost its parents: the half of `criu swrk` that dumps goes
 * on when the other one is killed. It has the image directory open.
 */
function foreignDumpPids(plan: OperationPlan): number[] {
  if (plan.engine !== 'containerd') {
    return [];
  }
  const processes = listProcesses();
  const shims = new Set(processes.filter(({ command }) => command.startsWith(SHIM)).map(({ hostPid }) => hostPid));
  const own = new Set(cgroupPids(plan.facts.freezer.path));
  const pids = new Set(
    processes
      .filter(({ hostPid, parentHostPid }) => shims.has(parentHostPid) && !own.has(hostPid))
      .filter(
        ({ commandLine }) => commandLine.includes(' checkpoint ') && commandLine.includes(`${plan.checkpointDir}/`),
      )
      .map(({ hostPid }) => hostPid),
  );
  processes
    .filter(({ command, hostPid }) => command === 'criu' && !own.has(hostPid))
    .filter(({ hostPid }) => openFds(hostPid).some(({ target }) => `${target}/`.startsWith(`${plan.checkpointDir}/`)))
    .forEach(({ hostPid }) => pids.add(hostPid));
  for (let before = -1; before !== pids.size;) {
    before = pids.size;
    processes
      .filter(({ hostPid, parentHostPid }) => pids.has(parentHostPid) && !own.has(hostPid))
      .forEach(({ hostPid }) => pids.add(hostPid));
  }
  return [...pids];
}

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
import { listProcesses, readProcess } from '../native/proc/tree.ts';
import type { Run } from '../native/run/run.ts';
import { freezeNow } from './freezer.ts';
import { killOperation, operationPids } from './operation-cgroup.ts';
import type { OperationPlan } from './operation.ts';

/** Begin of the names of containerd's shims, whose `comm` is cut at 15 characters. */
const SHIM = 'containerd-shim';

/** Time for CRIU to notice and to leave the processes as it found them. */
export const DUMP_GRACE_MS = 700;

/** @returns pids that had to be killed, after CRIU had its grace. Idempotent; nothing to end is success. */
export async function endDump(plan: OperationPlan, run: Run): Promise<number[]> {
  const criu = dumpPids(plan).filter((pid) => readProcess(pid)?.command === 'criu');
  if (criu.length > 0) {
    await Promise.all(criu.map((pid) => run('prlimit', [`--pid=${pid}`, '--nofile=0:'], { timeoutMs: 2000 })));
    const deadline = performance.now() + DUMP_GRACE_MS;
    while (performance.now() < deadline && criu.some((pid) => readProcess(pid) !== undefined)) {
      await sleep(5);
    }
    if (criu.some((pid) => readProcess(pid) !== undefined)) {
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

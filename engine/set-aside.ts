/*
 * Processes that came in by exec: the probe of a kubelet, somebody's shell. They are no descendants of init, so CRIU does
 * not dump them, but it finds them in the container's cgroup and holds them by ptrace with the others. When one of them is
 * killed meanwhile, as a kubelet does with a probe whose time is over, CRIU takes it for a task of the dump and exits at
 * once (criu/parasite-syscall.c, sigchld_handler): the dump is lost, at a moment at which the workload may have CRIU's
 * code in it. So for the time of the dump they are moved out of the frozen cgroup into one beside it, where they run on, and
 * back before the container is let go. One that enters after that is not CRIU's: it reads the cgroup once.
 *
 * In version 2 a process moves with all of its controllers, and the programs that deny a container the machine's devices
 * are its cgroup's: so the other group gets the same limits and programs before anybody is moved there.
 */
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import { copyPrograms } from '../native/libc/cgroup-programs.ts';
import { copyLimits } from '../native/proc/cgroup-limits.ts';
import { type CgroupDir, groupPids } from '../native/proc/cgroup.ts';
import { readProcess } from '../native/proc/tree.ts';
import type { ContainerFacts } from './container-facts.ts';
import type { OperationPlan } from './operation.ts';

const BACK_TRIES = 200;
const BACK_RETRY_MS = 5;

type Dumped = Pick<OperationPlan, 'operationId' | 'facts'>;

/** A sibling of the container's cgroup: its limits above are the same. */
function asideDir({ operationId, facts: { freezer } }: Dumped): string | undefined {
  return freezer.version === 'signals'
    ? undefined
    : join(dirname(freezer.path), `kybernate-aside-${operationId.slice(0, 16)}`);
}

/** In the container's own cgroup, and not below its init. Exact while nothing of it can fork. */
export function enteredPids({ freezer, processes }: Pick<ContainerFacts, 'freezer' | 'processes'>): readonly number[] {
  if (freezer.version === 'signals') {
    return [];
  }
  const tree = new Set(processes.filter(({ entered }) => !entered).map(({ hostPid }) => hostPid));
  const isBelow = (hostPid: number): boolean => {
    for (let pid = hostPid; pid > 1; pid = readProcess(pid)?.parentHostPid ?? 0) {
      if (tree.has(pid)) {
        return true;
      }
    }
    return false;
  };
  return groupPids(freezer.path).filter((pid) => !tree.has(pid) && !isBelow(pid));
}

/**
 * Moves them, while the container is frozen. Where the kernel does not let us, CRIU holds them as it would without this.
 * Crash: they run on in the other group until `takeBack`, which every undo calls.
 */
export function setAside(plan: Dumped, log: Logger): void {
  const dir = asideDir(plan);
  const { operationId, facts } = plan;
  const hostPids = enteredPids(facts);
  if (dir === undefined || facts.freezer.version === 'signals' || hostPids.length === 0) {
    return;
  }
  try {
    makeLike(facts.freezer, dir);
    hostPids.forEach((pid) => move(pid, dir));
    log.debug({ operationId, hostPids }, 'processes that came in by exec are set aside for the dump');
  } catch (error) {
    log.warn(
      { operationId, hostPids, error: messageOf(error) },
      'processes that came in by exec are part of the freeze: the dump fails when one is killed',
    );
  }
}

/** Of an earlier attempt an empty one may be left. @throws it cannot be made, or not with the same limits */
function makeLike({ version, path }: CgroupDir, dir: string): void {
  if (existsSync(dir)) {
    rmdirSync(dir);
  }
  mkdirSync(dir);
  if (version === 2) {
    copyLimits(path, dir);
    copyPrograms(path, dir);
  }
}

/** Idempotent; nothing set aside is success. They stand still again when the container does. */
export async function takeBack(plan: Dumped, log: Logger): Promise<void> {
  const dir = asideDir(plan);
  if (dir === undefined || !existsSync(dir)) {
    return;
  }
  let failure: unknown;
  for (let attempt = 0; attempt < BACK_TRIES; attempt += 1) {
    try {
      groupPids(dir).forEach((pid) => moveBack(pid, plan.facts.freezer.path));
      rmdirSync(dir);
      return;
    } catch (error) {
      // They run, so one may have forked since the list was read.
      failure = error;
    }
    await sleep(BACK_RETRY_MS);
  }
  const left = { operationId: plan.operationId, dir, hostPids: groupPids(dir), error: messageOf(failure) };
  log.error(left, 'processes that came in by exec could not be moved back into the cgroup of their container');
}

function moveBack(pid: number, dir: string): void {
  if (existsSync(dir)) {
    move(pid, dir);
    return;
  }
  // The container has ended meanwhile, and whoever ended it could not find this one.
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // ESRCH: it has ended with the others.
  }
}

function move(pid: number, dir: string): void {
  try {
    writeFileSync(join(dir, 'cgroup.procs'), String(pid));
  } catch (error) {
    // It has ended.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') {
      throw error;
    }
  }
}

/*
 * The cgroup of an operation: `kybernate/<operationId>` below the root of the hierarchies that matter when a worker's
 * own cgroup is killed or restarted. The runner moves itself there at its start, before it starts anything: runc, CRIU
 * and whatever they start are born in it, and are found in it when their parents are gone. The guards of all operations
 * share `kybernate/guards`: what ends an operation or a worker does not reach them.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { OPERATION_ID_PATTERN, parseOperationId } from '../core/ids.ts';
import type { NodeSettings } from './node-deps.ts';
import { listOperations } from './operation.ts';

const ROOT = '/sys/fs/cgroup';
/** v1 hierarchies by which service managers and runtimes end a whole group. */
const V1_HIERARCHIES = ['unified', 'systemd', 'pids', 'memory', 'devices', 'freezer'];

/** Begin of the names of groups of restored processes. */
const PROCESSES = 'process-';

function hierarchies(): string[] {
  if (existsSync(join(ROOT, 'cgroup.controllers'))) {
    return [ROOT];
  }
  return V1_HIERARCHIES.map((name) => join(ROOT, name)).filter((dir) => existsSync(join(dir, 'cgroup.procs')));
}

function groupDirs(operationId: string): string[] {
  return hierarchies().map((root) => join(root, 'kybernate', parseOperationId(operationId)));
}

/** Moves a process (and what it will fork) into the operation's cgroup. Hierarchies that refuse are left out. */
export function joinOperationCgroup(operationId: string, pid: number): void {
  joinGroups(groupDirs(operationId), pid);
}

/** Moves a freeze guard out of the cgroup of the worker that started it. It stays when the guard ends. */
export function joinGuardCgroup(pid: number): void {
  joinGroups(
    hierarchies().map((root) => join(root, 'kybernate', 'guards')),
    pid,
  );
}

/** Where the restored processes of an operation live on: a group that is neither the worker's nor the operation's. */
function processDirs(operationId: string): string[] {
  return hierarchies().map((root) => join(root, 'kybernate', `${PROCESSES}${parseOperationId(operationId)}`));
}

/** Moves restored processes out of reach of what ends a worker or an operation. */
export function joinProcessCgroup(operationId: string, pids: readonly number[]): void {
  pids.forEach((pid) => joinGroups(processDirs(operationId), pid));
}

/** Those that a restore has brought back, and their children, as long as they live. */
export function restoredPids(operationId: string): number[] {
  return pidsIn(processDirs(operationId));
}

/** Groups whose processes have all ended. */
function sweepProcessCgroups(): void {
  for (const root of hierarchies()) {
    const dir = join(root, 'kybernate');
    const names = existsSync(dir) ? readdirSync(dir).filter((name) => name.startsWith(PROCESSES)) : [];
    names.forEach((name) => tryRemove(join(dir, name)));
  }
}

function joinGroups(dirs: readonly string[], pid: number): void {
  for (const dir of dirs) {
    try {
      enter(dir, pid);
    } catch (error) {
      // EROFS, EACCES: a hierarchy that is not ours to use. ESRCH: the process has ended already.
      if (!['EROFS', 'EACCES', 'ESRCH', 'EINVAL'].includes((error as NodeJS.ErrnoException).code ?? '')) {
        throw error;
      }
    }
  }
}

function enter(dir: string, pid: number): void {
  for (let attempt = 1; ; attempt += 1) {
    mkdirSync(dir, { recursive: true });
    try {
      writeFileSync(join(dir, 'cgroup.procs'), String(pid));
      return;
    } catch (error) {
      // Empty groups are swept: ours may go between the two calls.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt === 3) {
        throw error;
      }
    }
  }
}

/** Host pids of every process in the operation's cgroup but the caller itself. */
export function operationPids(operationId: string): number[] {
  return pidsIn(groupDirs(operationId));
}

function pidsIn(dirs: readonly string[]): number[] {
  const pids = new Set<number>();
  for (const dir of dirs) {
    let text = '';
    try {
      text = readFileSync(join(dir, 'cgroup.procs'), 'utf8');
    } catch {
      // The group was never made in this hierarchy, or is gone: no process in it.
    }
    for (const line of text.split('\n')) {
      if (line !== '') {
        pids.add(Number(line));
      }
    }
  }
  pids.delete(process.pid);
  return [...pids];
}

/** Kills every process of the group but the caller, and waits until none is left. Returns the pids that were killed. */
export async function killOperation(operationId: string): Promise<number[]> {
  const killed = new Set<number>();
  for (let attempt = 0; attempt < 500; attempt += 1) {
    const pids = operationPids(operationId);
    if (pids.length === 0) {
      break;
    }
    for (const pid of pids) {
      killed.add(pid);
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // ESRCH: it ended by itself in the meantime.
      }
    }
    await sleep(4);
  }
  return [...killed];
}

/** Removes the empty groups; a group that still has processes stays (`kybernate doctor` shows it). */
export function removeOperationCgroup(operationId: string): void {
  groupDirs(operationId).forEach(tryRemove);
}

function tryRemove(dir: string): void {
  try {
    rmdirSync(dir);
  } catch {
    // ENOENT: never made. EBUSY: a process is left in it.
  }
}

export interface CgroupLeftover {
  readonly operationId: string;
  /** in any hierarchy */
  readonly hostPids: readonly number[];
}

/** Groups of operations that have no directory below this run directory. Those with processes may be another node worker's. */
export async function leftCgroups(settings: Pick<NodeSettings, 'runDir'>): Promise<readonly CgroupLeftover[]> {
  const known = new Set(await listOperations(settings));
  const names = hierarchies().flatMap((root) => {
    const dir = join(root, 'kybernate');
    return existsSync(dir) ? readdirSync(dir) : [];
  });
  return [...new Set(names)]
    .filter((name) => OPERATION_ID_PATTERN.test(name) && !known.has(name))
    .sort()
    .map((operationId) => ({ operationId, hostPids: operationPids(operationId) }));
}

/** Removes the groups of ended operations. One with a process in it cannot be removed, so nobody else's is. */
export async function sweepOperationCgroups(settings: Pick<NodeSettings, 'runDir'>): Promise<void> {
  (await leftCgroups(settings)).forEach(({ operationId }) => removeOperationCgroup(operationId));
  sweepProcessCgroups();
}

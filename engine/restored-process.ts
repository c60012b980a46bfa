/*
 * The processes that a restore has made: noted in the operation's directory before they run, found again by another attempt,
 * and ended where nobody got them.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../core/errors.ts';
import { descendantPids, readProcess } from '../native/proc/tree.ts';
import type { ProgramDeps } from './facts.ts';
import { joinProcessCgroup, killOperation, operationPids, restoredPids } from './operation-cgroup.ts';
import { operationPaths, readJson, writeJson } from './operation.ts';

/** Root of the tree. */
export interface Restored {
  readonly pid: number;
  readonly startTime: number;
}

type Deps = Pick<ProgramDeps, 'settings'>;

/** CRIU that lost its peer fails at its next event, or has nothing left to do. */
const CRIU_ENDS_MS = 10_000;
const GONE_MS = 10_000;
const POLL_MS = 20;

function noteFile({ settings }: Deps, operationId: string): string {
  return join(operationPaths(settings, operationId).dir, 'restored-process.json');
}

/**
 * At CRIU's event `post-restore`, when they stand still: noted, and out of reach of what ends a worker or an operation.
 * @throws RestoreFailed
 */
export function noteRestored(deps: Deps, operationId: string, pid: number): void {
  const startTime = readProcess(pid)?.startTime;
  if (startTime === undefined) {
    throw new KybernateError('RestoreFailed', `process ${pid} ended while it was restored`);
  }
  writeJson(noteFile(deps, operationId), { pid, startTime } satisfies Restored);
  joinProcessCgroup(operationId, descendantPids(pid));
}

function restoredNote(deps: Deps, operationId: string): Restored | undefined {
  return readJson(noteFile(deps, operationId)) as Restored | undefined;
}

/** The noted one, if it lives: a pid that was used again is another's. */
export function liveRestored(deps: Deps, operationId: string): Restored | undefined {
  const note = restoredNote(deps, operationId);
  const live = note === undefined ? undefined : readProcess(note.pid);
  return live !== undefined && live.state !== 'Z' && live.startTime === note?.startTime ? note : undefined;
}

/** Ends CRIU and what it has half made; a tree that runs stays. @returns the tree that runs */
export async function settledRestore(deps: Deps, operationId: string): Promise<Restored | undefined> {
  const deadline = performance.now() + CRIU_ENDS_MS;
  // One that is at its end finishes: what it has let go must not be killed.
  while (restoredNote(deps, operationId) !== undefined && performance.now() < deadline) {
    if (!operationPids(operationId).some((pid) => readProcess(pid)?.command === 'criu')) {
      break;
    }
    await sleep(POLL_MS);
  }
  await killOperation(operationId);
  return liveRestored(deps, operationId);
}

/** The undo of a restore whose result nobody got. Idempotent. @throws Internal they survive SIGKILL */
export async function removeRestoredProcess(deps: Deps, operationId: string): Promise<void> {
  await settledRestore(deps, operationId);
  await endRestored(deps, operationId);
}

/** Every one of them, with what they have forked meanwhile. Idempotent. @throws Internal they survive SIGKILL */
export async function endRestored(deps: Deps, operationId: string): Promise<void> {
  const deadline = performance.now() + GONE_MS;
  for (;;) {
    const root = liveRestored(deps, operationId);
    const pids = new Set([...restoredPids(operationId), ...(root === undefined ? [] : descendantPids(root.pid))]);
    const left = [...pids].filter((pid) => !['Z', 'X', undefined].includes(readProcess(pid)?.state));
    if (left.length === 0) {
      break;
    }
    if (performance.now() > deadline) {
      throw new KybernateError('Internal', `restored processes ${left.join(', ')} survive SIGKILL; call it again`);
    }
    left.forEach(kill);
    await sleep(POLL_MS);
  }
  rmSync(noteFile(deps, operationId), { force: true });
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // ESRCH: it has ended with its parent.
  }
}

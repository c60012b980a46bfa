/*
 * Which processes came back from a rehearsal: one empty file each, `<runDir>/rehearsals/<host pid>-<start time>`, on tmpfs.
 * A pid and its start time name one process until the next boot, and no note outlives that. A process that has changed
 * what it does with its GPUs since then has to be rehearsed again: nobody can see that from outside.
 */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readProcess } from '../../native/proc/tree.ts';
import type { NodeSettings } from '../node-deps.ts';
import type { GpuProcess } from './gpu-plan.ts';

type RehearsedProcess = Pick<GpuProcess, 'hostPid' | 'startTime'>;

function rehearsalsDir({ runDir }: Pick<NodeSettings, 'runDir'>): string {
  return join(runDir, 'rehearsals');
}

function noteOf({ hostPid, startTime }: RehearsedProcess): string {
  return `${hostPid}-${startTime}`;
}

/** Idempotent. Forgets processes that have ended. */
export function recordRehearsal(settings: Pick<NodeSettings, 'runDir'>, processes: readonly RehearsedProcess[]): void {
  const dir = rehearsalsDir(settings);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  for (const name of readdirSync(dir)) {
    const [hostPid = 0, startTime = 0] = name.split('-').map(Number);
    if (readProcess(hostPid)?.startTime !== startTime) {
      rmSync(join(dir, name), { force: true });
    }
  }
  for (const process of processes) {
    writeFileSync(join(dir, noteOf(process)), '', { mode: 0o600 });
  }
}

/** Did this very process come back from a rehearsal on this node, since the node's boot? */
export function hasPassedRehearsal(settings: Pick<NodeSettings, 'runDir'>, process: RehearsedProcess): boolean {
  return existsSync(join(rehearsalsDir(settings), noteOf(process)));
}

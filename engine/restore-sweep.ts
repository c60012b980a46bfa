/*
 * Restores whose wrapper does not come back to the agent: it died half-way, or its container runs and no agent was there to
 * hear it. Operations of the worker are left to their workflow, but for memory limits that nobody needs any more.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { isAbandoned, putBackRaises } from './gpu/restore-steps.ts';
import type { NodeDeps } from './node-deps.ts';
import { clearDeadRestore } from './restore-leftovers.ts';
import { type RestoreRecord, forgetRestore, listRestores, saveRestoreLogs } from './restore-operation.ts';
import { RESTORED_MARK } from './restored-mark.ts';

/** One that cannot be ended is tried again at the next look, and keeps nobody from the others. @returns ids that were ended */
export async function sweepRestores(deps: NodeDeps, op: Op): Promise<readonly string[]> {
  const ended: string[] = [];
  for (const record of await listRestores(deps.settings)) {
    const { operationId } = record;
    try {
      if (isAbandoned(record)) {
        await putBackRaises(deps, op, record);
      }
      if (record.madeBy === 'others' && (await endForeign(deps, op, record))) {
        ended.push(operationId);
      }
    } catch (error) {
      op.log.error({ operationId, error: messageOf(error) }, 'an abandoned restore could not be ended');
    }
  }
  return ended;
}

/** @returns false while its wrapper may still be at work */
async function endForeign(deps: NodeDeps, op: Op, record: RestoreRecord): Promise<boolean> {
  const { operationId, container, bundle, runcRoot } = record;
  if (wasRestored(record)) {
    await putBackRaises(deps, op, record);
    // Its memory has been read: the checkpoint may go.
    forgetRestore(deps.settings, operationId);
    op.log.info({ operationId, container: container.id }, 'restored, while no agent answered');
    return true;
  }
  if (bundle === undefined || existsSync(bundle)) {
    return false;
  }
  const savedLogs = saveRestoreLogs(deps.settings, record);
  if (runcRoot !== undefined) {
    await clearDeadRestore(deps.run, runcRoot, container.id);
  }
  forgetRestore(deps.settings, operationId);
  op.log.warn({ operationId, container: container.id, savedLogs }, 'abandoned restore ended');
  return true;
}

/** The last thing that the wrapper writes, when everything is done. */
function wasRestored({ operationId, runcRoot, container }: RestoreRecord): boolean {
  const mark = runcRoot === undefined ? '' : join(runcRoot, container.id, RESTORED_MARK);
  return existsSync(mark) && readFileSync(mark, 'utf8').split('\n', 1)[0] === operationId;
}

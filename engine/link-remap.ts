/*
 * CRIU links a file that is open and has no name any more as `link_remap.<number>` beside where it was, and removes the
 * link when its dump ends. One that is killed leaves it in the container.
 */
import { lstatSync, readdirSync, rmSync, type Dirent } from 'node:fs';
import { join } from 'node:path';
import type { OperationPlan } from './operation.ts';

/** Source: criu/files-reg.c, create_link_remap. */
const LINK = /^link_remap\.\d+$/;
/** The clock of files is coarser than that of the journal. */
const CLOCK_MS = 10;

/**
 * Removes what the dump of this operation has left; the caller has ended CRIU. Files that are older than the operation are
 * the container's own: a link sets the time of change.
 * @returns paths that were removed
 */
export function removeLinkRemaps(plan: Pick<OperationPlan, 'facts' | 'analysis'>, sinceMs: number): readonly string[] {
  const { upperDir } = plan.facts;
  return upperDir === undefined || !plan.analysis.linkRemap ? [] : removeBelow(upperDir, sinceMs);
}

function removeBelow(upperDir: string, sinceMs: number): string[] {
  const removed: string[] = [];
  const pending = [upperDir];
  for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
    for (const entry of entriesOf(dir)) {
      const path = join(dir, entry.name);
      if (entry.isDirectory()) {
        pending.push(path);
      } else if (
        entry.isFile() &&
        LINK.test(entry.name) &&
        (lstatSync(path, { throwIfNoEntry: false })?.ctimeMs ?? 0) >= sinceMs - CLOCK_MS
      ) {
        rmSync(path, { force: true });
        removed.push(path);
      }
    }
  }
  return removed;
}

function entriesOf(dir: string): Dirent[] {
  try {
    return readdirSync(dir, { withFileTypes: true });
  } catch (error) {
    // The container runs again, and may remove its directories.
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return [];
    }
    throw error;
  }
}

/*
 * The logs of captures that failed. Their checkpoint directory is removed, so the evidence lies beside it: the newest
 * ones are kept, below `<stateDir>/failed/<checkpoint id>`.
 */
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parseCheckpointId } from '../core/ids.ts';
import type { NodeSettings } from './node-deps.ts';

const KEPT = 20;

export function failedLogsDir(settings: Pick<NodeSettings, 'stateDir'>, checkpointId: string): string {
  return join(settings.stateDir, 'failed', parseCheckpointId(checkpointId));
}

/** Removes all but the newest. */
export async function pruneFailedLogs(settings: Pick<NodeSettings, 'stateDir'>): Promise<void> {
  const dir = join(settings.stateDir, 'failed');
  const names = await readdir(dir).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  });
  const entries = await Promise.all(names.map(async (name) => ({ name, at: (await stat(join(dir, name))).mtimeMs })));
  for (const { name } of entries.toSorted((a, b) => b.at - a.at).slice(KEPT)) {
    await rm(join(dir, name), { recursive: true, force: true });
  }
}

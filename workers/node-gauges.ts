/* What a node worker answers when somebody reads its metrics: the present state of the node, by a look at its files. */
import { existsSync } from 'node:fs';
import { readdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Meter } from '../core/metrics.ts';
import { mayBeFrozen, readJournal } from '../engine/journal.ts';
import type { NodeSettings } from '../engine/node-deps.ts';
import { listOperations, operationPaths } from '../engine/operation.ts';
import { readRestore } from '../engine/restore-operation.ts';
import { checkpointsDir } from './state-dir.ts';

type Settings = Pick<NodeSettings, 'runDir' | 'stateDir'>;

const STATES = ['standing-still', 'restoring', 'other'] as const;

export function gaugeNode(meter: Meter, settings: Settings): void {
  meter.gauge('kybernate_node_operations', async () => {
    const states = (await listOperations(settings)).map((operationId) => stateOf(settings, operationId));
    return STATES.map((state) => ({ labels: { state }, value: states.filter((one) => one === state).length }));
  });
  meter.gauge('kybernate_state_free_bytes', async () => {
    const { bavail, bsize } = await statfs(settings.stateDir);
    return [{ labels: {}, value: bavail * bsize }];
  });
  meter.gauge('kybernate_local_checkpoints', async () => {
    const dirs = await committed(checkpointsDir(settings.stateDir));
    const pending = dirs.filter((dir) => existsSync(join(dir, OWN_FILES.uploadPending))).length;
    return [
      { labels: { upload: 'pending' }, value: pending },
      { labels: { upload: 'none' }, value: dirs.length - pending },
    ];
  });
}

function stateOf(settings: Settings, operationId: string): (typeof STATES)[number] {
  if (mayBeFrozen(readJournal(operationPaths(settings, operationId).journal))) {
    return 'standing-still';
  }
  const restore = readRestore(settings, operationId);
  return restore !== undefined && restore.state !== 'restored' ? 'restoring' : 'other';
}

/** A node that has made none yet has no directory. */
async function committed(dir: string): Promise<string[]> {
  const names = await readdir(dir).catch(() => []);
  return names.map((name) => join(dir, name)).filter((path) => existsSync(join(path, METADATA_FILE)));
}

/* What a store must look like when nobody uses it and its garbage was collected. */
import type { Backend } from '../../store/backend/backend.ts';
import { getManifest } from '../../store/catalog.ts';
import { fileListObject } from '../../store/file-list.ts';
import { indexKey, manifestKey, packKey } from '../../store/keys.ts';
import { listStored } from '../../store/registry.ts';
import { testOp } from './checkpoint-dir.ts';

/** Objects that are missing, and those that belong to nothing; marks of verifications may be there. */
export async function faultsOf(backend: Backend): Promise<{ missing: string[]; left: string[]; damaged: unknown[] }> {
  const { checkpoints, damaged } = await listStored(backend, testOp(), { registry: 'never' });
  const needed = new Set<string>();
  for (const { checkpointId } of checkpoints) {
    const { manifest } = await getManifest(backend, checkpointId);
    needed.add(manifestKey(checkpointId)).add(fileListObject(manifest).key);
    manifest.packs.forEach(([pack]) => needed.add(packKey(pack)).add(indexKey(pack)));
  }
  const there = new Set<string>();
  for (const prefix of ['checkpoints/', 'condemned/', 'damaged/', 'index/', 'leases/', 'packs/']) {
    for await (const { key } of backend.list(prefix)) {
      there.add(key);
    }
  }
  return {
    missing: [...needed].filter((key) => !there.has(key)),
    left: [...there].filter((key) => !needed.has(key) && !key.includes('/verified-')),
    damaged: [...damaged],
  };
}

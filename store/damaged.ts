/*
 * Packs that were found damaged. A pack is never changed and its id never used again, so the mark stays as long as the
 * pack, or until somebody puts it again from a whole copy: checkpoints that name it go on reading what is whole in it, but
 * no writer takes a chunk from it any more.
 */
import type { Backend } from './backend/backend.ts';
import { condemnedPacks } from './condemned.ts';
import { damagedKey, packOfKey, PREFIX } from './keys.ts';

/** Idempotent. Crash: marked or not. */
export async function markDamaged(backend: Backend, pack: string, reason: string, signal: AbortSignal): Promise<void> {
  await backend.put(damagedKey(pack), Buffer.from(JSON.stringify({ reason })), { signal });
}

/** The pack was put again, whole. Idempotent. */
export async function unmarkDamaged(backend: Backend, pack: string, signal: AbortSignal): Promise<void> {
  await backend.delete(damagedKey(pack), { signal });
}

/** Packs that are absent to a writer: about to be deleted, or known to be damaged. With keys of condemned objects. */
export async function unusablePacks(backend: Backend, signal: AbortSignal): Promise<Set<string>> {
  const packs = await condemnedPacks(backend, signal);
  for await (const { key } of backend.list(PREFIX.damaged, { signal })) {
    const pack = packOfKey(key);
    if (pack !== undefined) {
      packs.add(pack);
    }
  }
  return packs;
}

/* What writers and deleters that died have left beside packs and checkpoints. Nobody can come to need any of it. */
import type { Leftovers } from '../../core/contract/collect-garbage.ts';
import type { Op } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import { staleLists } from '../condemned.ts';
import { packKey, packOfKey, PREFIX } from '../keys.ts';

/** Half-made objects older than this belong to writers that are dead. */
const STALE_MS = 86_400_000;

/** @param dryRun counts only; half-made objects are not visible and count as none then */
export async function sweepLeftovers(backend: Backend, op: Op, dryRun = false): Promise<Leftovers> {
  const { signal } = op;
  let indexes = 0;
  for await (const key of withoutPack(backend, op)) {
    indexes += 1;
    if (!dryRun) {
      await backend.delete(key, { signal });
    }
  }
  const stale = await staleLists(backend, signal);
  if (dryRun) {
    return { indexes, lists: stale.length, halfMade: 0 };
  }
  for (const key of stale) {
    await backend.delete(key, { signal });
  }
  return { indexes, lists: stale.length, halfMade: await backend.sweep(STALE_MS, { signal }) };
}

/** Keys below index/ and damaged/ without a pack. Both lists are in the order of the ids: they are read side by side. */
async function* withoutPack(backend: Backend, op: Op): AsyncGenerator<string> {
  const { signal } = op;
  let seen = 0;
  for (const prefix of [PREFIX.index, PREFIX.damaged]) {
    const packs = backend.list(PREFIX.packs, { signal })[Symbol.asyncIterator]();
    let pack = await packs.next();
    for await (const { key } of backend.list(prefix, { signal })) {
      const id = packOfKey(key);
      if (id === undefined) {
        continue;
      }
      while (pack.done !== true && pack.value.key < packKey(id)) {
        pack = await packs.next();
      }
      seen += 1;
      op.progress({ phase: 'deleting', bytesDone: seen });
      const found = pack.done !== true && pack.value.key === packKey(id);
      // A pack that was stored while the lists were read is there when one asks for it.
      if (!found && (await backend.head(packKey(id), { signal })) === undefined) {
        yield key;
      }
    }
    await packs.return?.(undefined);
  }
}

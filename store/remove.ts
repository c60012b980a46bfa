/*
 * Deletes checkpoints from a store: the manifests first, then the packs that nobody else needs, at once where that is
 * certain, so that `rm` frees space. It is certain when nobody uploads: then no lease has to be waited for, and one mark
 * suffices. Otherwise the packs stay for the garbage collection, which waits (gc/collect.ts).
 */
import type { StoredManifest } from '../core/checkpoint/manifest.ts';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from './backend/backend.ts';
import { findManifest } from './catalog.ts';
import { condemnedIds, newCondemnedId, readCondemned, writeCondemned } from './condemned.ts';
import { deleteListed, inFuture, pairsOf } from './gc/collect.ts';
import { mayPublish } from './gc/find.ts';
import { markUsedPacks, type Marks } from './gc/mark.ts';
import { checkpointOfManifest, condemnedKey, manifestKey, PREFIX, wrappedKeyPrefix } from './keys.ts';
import { LEASE_MS, liveLeases, type LeaseInfo } from './lease.ts';

export interface Removed {
  /** size of the packs that were deleted */
  readonly freedBytes: number;
  /** packs of this checkpoint that stay: others use them, or may be about to */
  readonly keptPacks: number;
}

/**
 * Removes a published checkpoint. Safe beside uploads and fetches: lease.ts says why. A call that was cut off is
 * finished by the next one.
 * Crash: once the manifest is gone the checkpoint is gone; packs may be left for the next call or the collection.
 * @throws CheckpointNotFound, StorageUnavailable, StorageDenied; InvalidInput for an id that is none
 */
export async function removeCheckpoint(backend: Backend, checkpointId: string, op: Op): Promise<Removed> {
  const [removed] = await removeCheckpoints(backend, [checkpointId], op);
  if (removed === undefined) {
    throw new KybernateError('CheckpointNotFound', `${backend.url} has no checkpoint ${checkpointId}`, {
      details: { checkpointId, store: backend.url },
    });
  }
  return removed;
}

/**
 * Removes several with one mark. A pack that several of them hold counts for the first.
 * @returns by place in `checkpointIds`; undefined where the store has no such checkpoint
 */
export async function removeCheckpoints(
  backend: Backend,
  checkpointIds: readonly string[],
  op: Op,
): Promise<Array<Removed | undefined>> {
  const sentences: Array<Sentence | undefined> = [];
  for (const id of checkpointIds.map(parseCheckpointId)) {
    sentences.push(await hideAndCondemn(backend, id, op));
  }
  if (sentences.every((sentence) => sentence === undefined)) {
    return checkpointIds.map(() => undefined);
  }
  // After the lists: who is not seen here sees them. Then the mark: what was published meanwhile counts.
  const leases = await liveLeases(backend, op.signal);
  const marks = await marksUnlessUploading(backend, leases, op);
  const deleted = new Set<string>();
  const removed: Array<Removed | undefined> = [];
  for (const sentence of sentences) {
    removed.push(sentence && (await execute(backend, sentence, { leases, marks, deleted }, op)));
  }
  return removed;
}

interface Sentence {
  readonly checkpointId: string;
  readonly listId: string;
  /** lists of calls that were cut off */
  readonly older: readonly string[];
  readonly packs: ReadonlyArray<readonly [id: string, bytes: number]>;
  /** what else lies beside the manifest */
  readonly keys: string[];
  readonly validUntil: string;
}

/** The manifest goes, and what it named is absent to writers. undefined when there is nothing of this id to remove. */
async function hideAndCondemn(backend: Backend, checkpointId: string, op: Op): Promise<Sentence | undefined> {
  const { signal } = op;
  const stem = `rm-${checkpointId}`;
  const older = await condemnedIds(backend, stem, signal);
  const packs = new Map<string, number>();
  for (const id of older) {
    pairsOf(await readCondemned(backend, id, signal)).forEach(([pack, bytes]) => packs.set(pack, bytes));
  }
  const manifest = await manifestOf(backend, checkpointId, op);
  const named = manifest?.packs;
  if (named === undefined && older.length === 0) {
    return undefined;
  }
  named?.forEach(([pack, bytes]) => packs.set(pack, bytes));
  await backend.delete(manifestKey(checkpointId), { signal });
  const keys = await ownKeys(backend, manifest, signal);
  for await (const { key } of backend.list(`${PREFIX.checkpoints}${checkpointId}/`, { signal })) {
    if (checkpointOfManifest(key) === undefined) {
      keys.push(key);
    }
  }
  const listId = newCondemnedId(stem);
  const validUntil = inFuture(LEASE_MS);
  const list = { packs: [...packs.keys()], bytes: [...packs.values()], keys, validUntil };
  await writeCondemned(backend, listId, list, signal);
  return { checkpointId, listId, older, packs: [...packs], keys, validUntil };
}

interface Scene {
  readonly leases: readonly LeaseInfo[];
  /** undefined: nobody can say what is needed */
  readonly marks: Marks | undefined;
  /** packs that went with an earlier checkpoint of the same call */
  readonly deleted: Set<string>;
}

async function execute(backend: Backend, sentence: Sentence, scene: Scene, op: Op): Promise<Removed> {
  const { checkpointId, listId, older, validUntil } = sentence;
  const { leases, marks, deleted } = scene;
  const read = leases.some((lease) => lease.purpose === 'read' && lease.checkpointId === checkpointId);
  const certain = marks !== undefined && !read;
  const unused = certain ? sentence.packs.filter(([pack]) => !marks.isUsed(pack)) : [];
  const fresh = unused.filter(([pack]) => !deleted.has(pack));
  const inUse = read || leases.some((lease) => mayPublish(lease, checkpointId));
  const published = inUse || (await backend.head(manifestKey(checkpointId), { signal: op.signal })) !== undefined;
  const keys = published ? [] : sentence.keys;
  await deleteListed(backend, { keys, validUntil }, fresh, op);
  fresh.forEach(([pack]) => deleted.add(pack));
  await backend.delete(condemnedKey(listId), { signal: op.signal });
  if (certain) {
    // Whoever wrote them has found the same packs unused, if any: they are deleted, so it can do no more harm.
    for (const id of older) {
      await backend.delete(condemnedKey(id), { signal: op.signal });
    }
  }
  const freedBytes = fresh.reduce((sum, [, bytes]) => sum + bytes, 0);
  const keptPacks = sentence.packs.length - unused.length;
  op.log.info({ checkpointId, freedBytes, keptPacks }, 'checkpoint removed from the store');
  return { freedBytes, keptPacks };
}

type Named = Pick<StoredManifest, 'packs' | 'encryption'>;

/** undefined when there is no manifest; no packs for one that cannot be read: they are left to the collection. */
async function manifestOf(backend: Backend, checkpointId: string, op: Op): Promise<Named | undefined> {
  try {
    return await findManifest(backend, checkpointId, op.signal);
  } catch (error) {
    if (!isKybernateError(error, 'CheckpointCorrupt')) {
      throw error;
    }
    op.log.warn({ checkpointId, reason: error.message }, 'damaged manifest removed; its packs stay');
    return { packs: [] };
  }
}

/** The wrapped copies of the key that sealed this manifest and its list, and nothing else ever. */
async function ownKeys(backend: Backend, manifest: Named | undefined, signal: AbortSignal): Promise<string[]> {
  const keys: string[] = [];
  const contentKey = manifest?.encryption?.contentKey;
  if (contentKey !== undefined) {
    for await (const { key } of backend.list(wrappedKeyPrefix(contentKey), { signal })) {
      keys.push(key);
    }
  }
  return keys;
}

async function marksUnlessUploading(
  backend: Backend,
  leases: readonly LeaseInfo[],
  op: Op,
): Promise<Marks | undefined> {
  const uploads = leases.filter(({ purpose }) => purpose === 'upload');
  if (uploads.length > 0) {
    op.log.info({ leases: uploads.map(({ id }) => id) }, 'packs stay: somebody may be about to use them');
    return undefined;
  }
  try {
    return await markUsedPacks(backend, op);
  } catch (error) {
    if (!isKybernateError(error, 'CheckpointCorrupt')) {
      throw error;
    }
    op.log.warn({ reason: error.message }, 'packs stay: another manifest cannot be read');
    return undefined;
  }
}

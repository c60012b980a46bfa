/*
 * Garbage collection of a store that others write, read and collect at the same time. In this order:
 *
 *   condemn   mark; what no manifest names goes onto condemned lists: writers take none of it from now on. Then the
 *             leases are read: who holds one may have looked before, and may yet publish what names a condemned pack.
 *   wait      until those leases are gone, at most as long as a lease lasts.
 *   confirm   mark again: what is still unnamed stays so for ever. Whoever still reads a checkpoint that was removed
 *             meanwhile is waited for.
 *   delete    list by list; a list goes last.
 *
 * Every step may be repeated, and be cut off anywhere: nothing is lost, and a list that nobody finishes runs out and is
 * taken away by a later collection. Nothing here relies on an earlier step of the same process.
 */
import type { CondemnResult, ConfirmResult, PackSum } from '../../core/contract/collect-garbage.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import { isValid, newCondemnedId, readCondemned, writeCondemned, type Condemned } from '../condemned.ts';
import { condemnedKey, damagedKey, indexKey, packKey, PREFIX } from '../keys.ts';
import { CLOCK_SKEW_MS, LEASE_MS, liveLeases, readLease, type LeaseInfo } from '../lease.ts';
import { forEachLimit } from '../limit.ts';
import { count, findGarbage, isLeft } from './find.ts';
import { markUsedPacks, type Marks } from './mark.ts';

/** One list: 400 kB, and one activity. */
const LIST_NAMES = 10_000;
const PARALLEL_DELETES = 16;
/** How long a collection may take from the first list to the confirmation. */
const CONDEMNED_MS = 25 * LEASE_MS;
/** How long the deletion of a confirmed list may take, all attempts together. */
const CONFIRMED_MS = 2 * LEASE_MS;

export interface Collection {
  readonly backend: Backend;
  /** lower case letters and digits; the same for all attempts of one collection */
  readonly collectionId: string;
  readonly op: Op;
}

/** @param dryRun looks only: no list is written. @throws as `markUsedPacks` */
export async function condemnGarbage(collection: Collection, dryRun = false): Promise<CondemnResult> {
  const { backend, collectionId, op } = collection;
  const found = await findGarbage(backend, op);
  const garbage = sumOf(found.packs);
  const { checkpoints, stored, young, more, keys } = found;
  const result = { checkpoints, stored, garbage, young, more, objects: keys.length };
  if (dryRun || (garbage.packs === 0 && keys.length === 0)) {
    return { ...result, lists: 0 };
  }
  // A name of its own for every attempt: one that was given up may still be writing.
  await forgetCollection(collection);
  const listId = newCondemnedId(`gc-${collectionId}`);
  const validUntil = inFuture(CONDEMNED_MS);
  const lists = split(found.packs, keys);
  for (const [index, { packs, keys: listed }] of lists.entries()) {
    const [ids, bytes] = [packs.map(([id]) => id), packs.map(([, size]) => size)];
    await writeCondemned(backend, partId(listId, index), { packs: ids, bytes, keys: listed, validUntil }, op.signal);
    op.progress({ phase: 'marking', bytesDone: stored.bytes + index });
  }
  // Only now: who is not seen here sees the lists.
  const waitFor = (await liveLeases(backend, op.signal)).filter((lease) => mayNeed(lease, found.marks));
  const head = {
    packs: [],
    validUntil,
    waitFor: waitFor.map(({ id }) => id),
    waitUntil: inFuture(LEASE_MS + CLOCK_SKEW_MS),
  };
  await writeCondemned(backend, listId, head, op.signal);
  return { ...result, listId, lists: lists.length };
}

const NOTHING: Omit<ConfirmResult, 'waitingFor' | 'expired'> = {
  confirmed: { packs: 0, bytes: 0 },
  kept: { packs: 0, bytes: 0 },
  objects: 0,
};

/** @throws as `markUsedPacks`; the lists are then left to `forgetCollection` */
export async function confirmGarbage(collection: Collection, listId: string, lists: number): Promise<ConfirmResult> {
  const { backend, op } = collection;
  const head = await readCondemned(backend, listId, op.signal);
  if (head === undefined || !isValid(head)) {
    return { ...NOTHING, waitingFor: [], expired: true };
  }
  const held = new Set((await liveLeases(backend, op.signal)).map(({ id }) => id));
  const waitingFor = head.waitFor.filter((id) => held.has(id));
  if (waitingFor.length > 0 && Date.now() < Date.parse(head.waitUntil ?? '')) {
    return { ...NOTHING, waitingFor, expired: false };
  }
  const marks = await markUsedPacks(backend, op);
  // After the mark: who reads under a lease that is not seen here has found a manifest that the mark has found, too.
  const leases = await liveLeases(backend, op.signal);
  const readers = leases.filter((lease) => lease.purpose === 'read' && mayNeed(lease, marks));
  if (readers.length > 0) {
    return { ...NOTHING, waitingFor: readers.map(({ id }) => id), expired: false };
  }
  const confirmed = { packs: 0, bytes: 0 };
  const kept = { packs: 0, bytes: 0 };
  let objects = 0;
  for (let index = 0; index < lists; index += 1) {
    const list = await readCondemned(backend, partId(listId, index), op.signal);
    const packs = pairsOf(list).filter(([id, bytes]) => {
      count(marks.isUsed(id) ? kept : confirmed, bytes);
      return !marks.isUsed(id);
    });
    const keys = await stillLeft(backend, list?.keys ?? [], marks, leases, op.signal);
    objects += keys.length;
    const [ids, bytes] = [packs.map(([id]) => id), packs.map(([, size]) => size)];
    const validUntil = inFuture(CONFIRMED_MS);
    const content = { packs: ids, bytes, keys, validUntil, confirmed: true };
    await writeCondemned(backend, partId(listId, index), content, op.signal);
    op.progress({ phase: 'marking', bytesDone: confirmed.bytes + index });
  }
  await backend.delete(condemnedKey(listId), { signal: op.signal });
  return { confirmed, kept, objects, waitingFor: [], expired: false };
}

/**
 * Deletes what is on one confirmed list, then the list. No list: it was done already.
 * @throws StorageUnavailable when the list has run out; the next collection finds what is left
 */
export async function deleteGarbage({ backend, op }: Collection, listId: string, index: number): Promise<void> {
  const id = partId(listId, index);
  const list = await readCondemned(backend, id, op.signal);
  if (list === undefined) {
    return;
  }
  if (!list.confirmed) {
    throw new KybernateError('Internal', `the condemned list ${id} was not confirmed; nothing on it was deleted`);
  }
  await deleteListed(backend, list, pairsOf(list), op);
  await backend.delete(condemnedKey(id), { signal: op.signal });
}

/**
 * Deletes packs with what belongs to them, and the other objects of a list, as long as the list holds.
 * @param packs those of the list that may go
 */
export async function deleteListed(
  backend: Backend,
  list: Pick<Condemned, 'keys' | 'validUntil'>,
  packs: ReadonlyArray<readonly [id: string, bytes: number]>,
  op: Op,
): Promise<void> {
  const { signal } = op;
  let bytesDone = 0;
  const remove = async (key: string): Promise<void> => {
    if (!isValid(list)) {
      throw new KybernateError(
        'StorageUnavailable',
        `a list of ${packs.length} condemned packs has run out before all were deleted; a later collection goes on`,
      );
    }
    await backend.delete(key, { signal });
  };
  await forEachLimit(packs, PARALLEL_DELETES, signal, async ([pack, bytes]) => {
    await remove(packKey(pack));
    await remove(indexKey(pack));
    await remove(damagedKey(pack));
    bytesDone += bytes;
    op.progress({ phase: 'deleting', bytesDone });
  });
  await forEachLimit(list.keys, PARALLEL_DELETES, signal, async (key) => {
    await remove(key);
    bytesDone += 1;
    op.progress({ phase: 'deleting', bytesDone });
  });
}

/** Lifts the sentence. Never call it once a deletion of this collection has begun: an attempt may still be at work. */
export async function forgetCollection({ backend, collectionId, op }: Collection): Promise<void> {
  for await (const { key } of backend.list(`${PREFIX.condemned}gc-${collectionId}-`, { signal: op.signal })) {
    await backend.delete(key, { signal: op.signal });
  }
}

/**
 * May whoever holds this lease still publish or read what no manifest names? Every upload may; of the readers those
 * whose checkpoint was removed, or was published anew since they began.
 */
function mayNeed(lease: LeaseInfo, marks: Marks): boolean {
  const published = marks.checkpoints.get(lease.checkpointId);
  return (
    lease.purpose === 'upload' ||
    published === undefined ||
    !(Date.parse(lease.since) > Date.parse(published.publishedAt))
  );
}

/** Other objects of a list that still belong to nobody. */
async function stillLeft(
  backend: Backend,
  keys: readonly string[],
  marks: Marks,
  leases: readonly LeaseInfo[],
  signal: AbortSignal,
): Promise<string[]> {
  const left: string[] = [];
  for (const key of keys) {
    const isLease = key.startsWith(PREFIX.leases);
    const over = isLease && (await readLease(backend, { key, modifiedMs: 0 }, signal)) === 'over';
    if (over || isLeft(key, marks, leases)) {
      left.push(key);
    }
  }
  return left;
}

type Pair = readonly [id: string, bytes: number];

function split(packs: readonly Pair[], keys: readonly string[]): Array<{ packs: readonly Pair[]; keys: string[] }> {
  const lists: Array<{ packs: readonly Pair[]; keys: string[] }> = [];
  for (let start = 0; start < Math.max(packs.length, keys.length); start += LIST_NAMES) {
    lists.push({ packs: packs.slice(start, start + LIST_NAMES), keys: keys.slice(start, start + LIST_NAMES) });
  }
  return lists;
}

export function pairsOf(list: Condemned | undefined): Pair[] {
  return (list?.packs ?? []).map((id, index): Pair => [id, list?.bytes[index] ?? 0]);
}

function sumOf(packs: readonly Pair[]): PackSum {
  return { packs: packs.length, bytes: packs.reduce((sum, [, bytes]) => sum + bytes, 0) };
}

function partId(listId: string, index: number): string {
  return `${listId}-${index}`;
}

export function inFuture(ms: number): string {
  return new Date(Date.now() + ms).toISOString();
}

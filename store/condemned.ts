/*
 * condemned/<id>.json: what somebody is about to delete. To a writer it is absent already. Lists are never changed by
 * others than their owner, and their ids are never used again: so an attempt that was given up and still runs cannot
 * change what a later one has decided. A list that was confirmed stays until everything on it is deleted, or until its
 * time is over, after which its owner deletes nothing more and anybody may take it away.
 */
import { randomBytes } from 'node:crypto';
import * as z from 'zod';
import { packId } from '../core/checkpoint/manifest.ts';
import type { Backend } from './backend/backend.ts';
import { condemnedKey, PREFIX } from './keys.ts';
import { LEASE_MS, readJson } from './lease.ts';
import { forEachLimit } from './limit.ts';

const PARALLEL_READS = 8;

const condemnedContent = z.object({
  packs: z.array(packId),
  /** sizes of the packs, in the same order */
  bytes: z.array(z.number()).default([]),
  /** other objects: file lists without a manifest, leases that are over */
  keys: z.array(z.string()).default([]),
  /** ISO time from which on nothing of this list is deleted any more */
  validUntil: z.string().optional(),
  /** garbage collection: nobody can come to need what is on this list */
  confirmed: z.boolean().default(false),
  /** garbage collection, first list: ids of the leases under which somebody may still rely on what is listed */
  waitFor: z.array(z.string()).default([]),
  /** ISO time at which those are over for certain */
  waitUntil: z.string().optional(),
});
export type Condemned = z.output<typeof condemnedContent>;

export function newCondemnedId(stem: string): string {
  return `${stem}-${randomBytes(6).toString('hex')}`;
}

/** Ids of condemned packs and keys of other condemned objects, in one set: an id has no slash, a key has. */
export async function condemnedPacks(backend: Backend, signal: AbortSignal): Promise<Set<string>> {
  const names = new Set<string>();
  await forEachLimit(backend.list(PREFIX.condemned, { signal }), PARALLEL_READS, signal, async ({ key }) => {
    const list = await readList(backend, key, signal);
    for (const name of [...(list?.packs ?? []), ...(list?.keys ?? [])]) {
      names.add(name);
    }
  });
  return names;
}

/** undefined when there is none of this id, or none that can be read: then its owner cannot read it either. */
export async function readCondemned(backend: Backend, id: string, signal: AbortSignal): Promise<Condemned | undefined> {
  return readList(backend, condemnedKey(id), signal);
}

export async function writeCondemned(
  backend: Backend,
  id: string,
  list: Partial<Condemned> & Pick<Condemned, 'packs' | 'validUntil'>,
  signal: AbortSignal,
): Promise<void> {
  await backend.put(condemnedKey(id), Buffer.from(JSON.stringify(list)), { signal });
}

/** Ids of the lists whose id is `<stem>-<random>`. */
export async function condemnedIds(backend: Backend, stem: string, signal: AbortSignal): Promise<string[]> {
  const ids: string[] = [];
  for await (const { key } of backend.list(`${PREFIX.condemned}${stem}-`, { signal })) {
    const rest = key.slice(PREFIX.condemned.length + stem.length + 1);
    if (/^[0-9a-f]{12}\.json$/.test(rest)) {
      ids.push(`${stem}-${rest.slice(0, 12)}`);
    }
  }
  return ids;
}

/** May the owner of this list still delete? */
export function isValid(list: Pick<Condemned, 'validUntil'>): boolean {
  return list.validUntil !== undefined && Date.now() < Date.parse(list.validUntil);
}

/** Keys of the lists whose owners are dead: their time has been over for as long as a lease lasts. */
export async function staleLists(backend: Backend, signal: AbortSignal): Promise<string[]> {
  const stale: string[] = [];
  for await (const { key, modifiedMs } of backend.list(PREFIX.condemned, { signal })) {
    const list = await readList(backend, key, signal);
    const until = list?.validUntil === undefined ? modifiedMs + 24 * LEASE_MS : Date.parse(list.validUntil);
    if (until + LEASE_MS < Date.now()) {
      stale.push(key);
    }
  }
  return stale;
}

async function readList(backend: Backend, key: string, signal: AbortSignal): Promise<Condemned | undefined> {
  return condemnedContent.safeParse(readJson(await backend.get(key, { signal }))).data;
}

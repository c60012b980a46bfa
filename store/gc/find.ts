/* What in a store belongs to no checkpoint, and to no upload that goes on. Looks only, deletes nothing. */
import type { PackSum } from '../../core/contract/collect-garbage.ts';
import { checkpointId } from '../../core/contract/common.ts';
import type { Op } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import { checkpointOfManifest, packOfKey, PREFIX } from '../keys.ts';
import { CLOCK_SKEW_MS, readLeases, type LeaseInfo } from '../lease.ts';
import { markUsedPacks, type Marks } from './mark.ts';

/** Packs that one collection deletes at most: 6.4 TB, and 20 MB of lists. */
const MAX_PACKS = 200_000;
const MAX_KEYS = 50_000;

export interface Garbage {
  readonly checkpoints: number;
  /** everything below packs/ */
  readonly stored: PackSum;
  /** named by no manifest, oldest id order; at most `MAX_PACKS` */
  readonly packs: ReadonlyArray<readonly [id: string, bytes: number]>;
  /** named by no manifest, but young enough to belong to an upload that goes on */
  readonly young: PackSum;
  /** objects of checkpoints that have no manifest, leases that are over */
  readonly keys: readonly string[];
  /** there is more than one collection takes */
  readonly more: boolean;
  readonly marks: Marks;
}

/** @throws as `markUsedPacks` */
export async function findGarbage(backend: Backend, op: Op): Promise<Garbage> {
  const startedMs = Date.now();
  // Leases first: what an upload that is over by now has stored is named by a manifest when these are read, or garbage.
  const leases = await readLeases(backend, op.signal);
  const uploads = leases.live.filter(({ purpose }) => purpose === 'upload');
  const marks = await markUsedPacks(backend, op);
  const found = await findPacks(backend, marks, youngFrom(startedMs, uploads), op);
  const keys = leases.over.map(({ key }) => key);
  for await (const object of backend.list(PREFIX.checkpoints, { signal: op.signal })) {
    if (isLeft(object.key, marks, uploads) && object.modifiedMs < startedMs - CLOCK_SKEW_MS) {
      keys.push(object.key);
    }
  }
  return {
    ...found,
    checkpoints: marks.checkpoints.size,
    marks,
    keys: keys.slice(0, MAX_KEYS),
    more: found.more || keys.length > MAX_KEYS,
  };
}

/** What was stored since then may belong to an upload that goes on, by the clocks of the writer and of the place. */
function youngFrom(startedMs: number, uploads: readonly LeaseInfo[]): number {
  const since = uploads.map((lease) => (lease.since === '' ? 0 : Date.parse(lease.since)));
  return Math.min(startedMs, ...since.map((ms) => (Number.isNaN(ms) ? 0 : ms))) - CLOCK_SKEW_MS;
}

async function findPacks(
  backend: Backend,
  marks: Marks,
  youngFromMs: number,
  op: Op,
): Promise<Pick<Garbage, 'stored' | 'packs' | 'young' | 'more'>> {
  const stored = { packs: 0, bytes: 0 };
  const young = { packs: 0, bytes: 0 };
  const packs: Array<readonly [string, number]> = [];
  let more = false;
  for await (const { key, bytes, modifiedMs } of backend.list(PREFIX.packs, { signal: op.signal })) {
    const pack = packOfKey(key);
    if (pack === undefined) {
      continue;
    }
    count(stored, bytes);
    op.progress({ phase: 'marking', bytesDone: stored.bytes });
    if (marks.isUsed(pack)) {
      continue;
    }
    if (modifiedMs >= youngFromMs) {
      count(young, bytes);
    } else if (packs.length < MAX_PACKS) {
      packs.push([pack, bytes]);
    } else {
      more = true;
    }
  }
  return { stored, young, packs, more };
}

/**
 * Is this object left of a publication that never came about, or of a checkpoint that was removed? Manifests are never
 * left: one that the mark has not seen was published since.
 */
export function isLeft(key: string, marks: Marks, leases: readonly LeaseInfo[]): boolean {
  const id = checkpointOf(key);
  if (id === undefined || checkpointOfManifest(key) !== undefined || leases.some((lease) => mayPublish(lease, id))) {
    return false;
  }
  const published = marks.checkpoints.get(id);
  const digest = /\/[a-z]+-([0-9a-f]{16})\.[a-z]+$/.exec(key)?.[1];
  return published === undefined || (digest !== undefined && !published.digests.includes(digest));
}

/** A lease that cannot be read may be of any checkpoint. */
export function mayPublish(lease: LeaseInfo, id: string): boolean {
  return lease.purpose === 'upload' && (lease.checkpointId === id || lease.checkpointId === '');
}

/** The checkpoint to which an object below checkpoints/ belongs; undefined for other objects. */
function checkpointOf(key: string): string | undefined {
  const id = /^checkpoints\/([^/]+)\/./.exec(key)?.[1];
  return id !== undefined && checkpointId.safeParse(id).success ? id : undefined;
}

export function count(sum: { packs: number; bytes: number }, bytes: number): void {
  sum.packs += 1;
  sum.bytes += bytes;
}

/* Contract of `collectGarbage`: input, result, and what its steps tell each other. Sizes are bytes. */
import * as z from 'zod';
import { durationMs } from './common.ts';

export const collectGarbageInput = z.strictObject({
  /** tell what would go, and delete nothing */
  dryRun: z.boolean().default(false),
  /** how often to look whether those are done who may still need what is condemned; safe at any value */
  lookEveryMs: durationMs.max(3_600_000).default(300_000),
});
export type CollectGarbageInput = z.output<typeof collectGarbageInput>;
export type CollectGarbageRequest = z.input<typeof collectGarbageInput>;

export interface PackSum {
  readonly packs: number;
  /** as stored */
  readonly bytes: number;
}

export interface CondemnResult {
  /** published, when it was looked */
  readonly checkpoints: number;
  /** all packs of the store */
  readonly stored: PackSum;
  /** packs that no manifest names */
  readonly garbage: PackSum;
  /** packs that no manifest names, but that may belong to an upload that goes on */
  readonly young: PackSum;
  /** objects without a checkpoint: file lists, leases that are over */
  readonly objects: number;
  /** there is more than one round takes */
  readonly more: boolean;
  /** name of the lists that were written; absent when there is no garbage */
  readonly listId?: string;
  readonly lists: number;
}

export interface ConfirmResult {
  /** ids of leases that must be gone first; then nothing else is told */
  readonly waitingFor: readonly string[];
  /** the lists have run out: nothing was deleted, and nothing will be */
  readonly expired: boolean;
  /** what will be deleted */
  readonly confirmed: PackSum;
  /** what somebody has come to need */
  readonly kept: PackSum;
  readonly objects: number;
}

export interface Leftovers {
  /** copies of indexes, and marks of damage, of packs that are gone */
  readonly indexes: number;
  /** condemned lists of deleters that died */
  readonly lists: number;
  /** temporary files, multipart uploads */
  readonly halfMade: number;
}

export interface CollectGarbageResult {
  /** URL of the store */
  readonly store: string;
  readonly dryRun: boolean;
  readonly checkpoints: number;
  /** before the collection */
  readonly stored: PackSum;
  /** with `dryRun`: what would be deleted, as far as nobody comes to need it meanwhile */
  readonly deleted: PackSum;
  /** found as garbage, and kept because somebody has come to need it */
  readonly kept: PackSum;
  readonly young: PackSum;
  readonly objects: number;
  readonly leftovers: Leftovers;
  /** somebody worked in the store for so long that the collection gave up, or there was too much: run it again */
  readonly unfinished: boolean;
}

/*
 * The contracts of the workflows `verifyCheckpoint` and `repairCheckpoint` and of their steps: which copies of a
 * checkpoint are whole, and how one that is not is made whole from another.
 */
import * as z from 'zod';
import { checkpointId, nodeName, timeoutsWithDefaults } from './common.ts';

export const VERIFY_MODES = ['quick', 'full'] as const;
export type VerifyMode = (typeof VERIFY_MODES)[number];

export const verifyInput = z.strictObject({
  checkpointId,
  /** node whose copy is checked, and whose sidecar reads the store */
  node: nodeName,
  /** which copies: the one in the store, the one on the node, or both; `both` needs only one of them to exist */
  where: z.enum(['store', 'node', 'both']).default('both'),
  /** `quick` asks for presence and sizes; `full` reads every byte and compares it with its digest */
  mode: z.enum(VERIFY_MODES).default('quick'),
  /** time limits of the steps */
  timeouts: timeoutsWithDefaults,
});
export type VerifyRequest = z.input<typeof verifyInput>;
export type VerifyInput = z.output<typeof verifyInput>;

export const repairInput = z.strictObject({
  checkpointId,
  /** node whose copy is the other one, and whose sidecar writes to the store */
  node: nodeName,
  /** which copies may be repaired; a place that holds nothing of the checkpoint is filled only when it alone is named */
  where: z.enum(['store', 'node', 'both']).default('both'),
  /** time limits of the steps */
  timeouts: timeoutsWithDefaults,
});
export type RepairRequest = z.input<typeof repairInput>;
export type RepairInput = z.output<typeof repairInput>;

/** Something of a checkpoint that is not as it was written. */
export interface Problem {
  /** `size`: there, but longer or shorter; `damaged`: other bytes; `extra`: there, but not part of the checkpoint */
  readonly kind: 'missing' | 'size' | 'damaged' | 'extra';
  readonly message: string;
  /** of the checkpoint */
  readonly file?: string;
  /** number in the file, from 0 */
  readonly chunk?: number;
  /** id of the pack that holds the chunk */
  readonly pack?: string;
  /** key in the store */
  readonly object?: string;
}

/** One copy of a checkpoint. */
export interface PlaceReport {
  readonly place: 'store' | 'node';
  /** URL of the store, or directory on the node */
  readonly where: string;
  /** false: nothing of the checkpoint is there; then it is not `ok` and has no problems */
  readonly found: boolean;
  readonly ok: boolean;
  readonly merkleRoot?: string;
  /** files that were looked at */
  readonly files: number;
  /** bytes that were read: from the store as stored, on the node as they are */
  readonly bytes: number;
  /** the first ones, at most `MAX_PROBLEMS` */
  readonly problems: readonly Problem[];
  /** of all problems */
  readonly problemCount: number;
}

/** Problems that a report lists: it crosses Temporal. */
export const MAX_PROBLEMS = 100;

export interface VerifyResult {
  readonly checkpointId: string;
  readonly node: string;
  readonly mode: VerifyMode;
  /** every copy that was found is whole, and there is one */
  readonly ok: boolean;
  readonly places: readonly PlaceReport[];
}

/** What a repair did to the store. */
export interface StoreRepair {
  /** packs that no writer relies on any more */
  readonly markedPacks: readonly string[];
  /** packs that were put again from a whole copy in a tier */
  readonly restoredPacks: readonly string[];
  /** packs whose index was written anew from the pack itself */
  readonly rewrittenIndexes: readonly string[];
  /** chunks that were sent again, and all bytes put into the store */
  readonly newChunks: number;
  readonly sentBytes: number;
}

export interface NodeRepair {
  readonly localPath: string;
  readonly fetchedBytes: number;
}

export interface RepairResult {
  readonly checkpointId: string;
  readonly node: string;
  /** as they were found */
  readonly before: readonly PlaceReport[];
  /** as they are now: every byte was read again where something was repaired */
  readonly after: readonly PlaceReport[];
  /** absent: nothing was done there */
  readonly store?: StoreRepair;
  readonly nodeCopy?: NodeRepair;
}

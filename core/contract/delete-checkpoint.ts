/* The contract of the workflow `deleteCheckpoint` and of its steps: a checkpoint goes, from the store and from nodes. */
import * as z from 'zod';
import { checkpointId, nodeName, timeoutsWithDefaults } from './common.ts';

const MAX_NODES = 200;

export const deleteCheckpointInput = z
  .strictObject({
    checkpointId,
    /** is it removed from the store? A control worker without a store finds none there */
    store: z.boolean().default(true),
    /** nodes whose copies are removed, too, each once */
    nodes: z
      .array(nodeName)
      .max(MAX_NODES)
      .refine((nodes) => new Set(nodes).size === nodes.length, 'a node is named twice')
      .default([]),
    /** also while it is restored or uploaded; a running restore from it may fail */
    force: z.boolean().default(false),
    /** time limits of the steps */
    timeouts: timeoutsWithDefaults,
  })
  .refine(({ store, nodes }) => store || nodes.length > 0, {
    message: 'with store: false name the nodes whose copies are to go',
    path: ['nodes'],
  });
export type DeleteCheckpointRequest = z.input<typeof deleteCheckpointInput>;
export type DeleteCheckpointInput = z.output<typeof deleteCheckpointInput>;

/** What a step of the removal gets. */
export interface RemoveStepInput {
  readonly checkpointId: string;
  /** nobody who uses it is in the way */
  readonly force: boolean;
}

/** What became of the one in the store. */
export interface StoredRemoval {
  /** false: the store had none, perhaps since an earlier attempt has removed it */
  readonly found: boolean;
  /** size of the packs that were deleted */
  readonly freedBytes: number;
  /** packs that others need, or may be about to: the garbage collection looks again */
  readonly keptPacks: number;
}

export interface CopyRemoval {
  /** false: the node had none */
  readonly found: boolean;
}

export interface DeleteCheckpointResult {
  readonly checkpointId: string;
  /** absent: it was not to be removed there */
  readonly store?: StoredRemoval;
  /** in the order of the request */
  readonly nodes: ReadonlyArray<CopyRemoval & { readonly node: string }>;
}

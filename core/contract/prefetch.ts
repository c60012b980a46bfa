/* The contract of the workflow `prefetch` and of its step: a checkpoint is brought near before it is needed. */
import * as z from 'zod';
import { checkpointId, durationMs, nodeName, timeoutsWithDefaults } from './common.ts';

export const PREFETCH_TIERS = ['ram', 'nvme', 'local'] as const;
export type PrefetchTier = (typeof PREFETCH_TIERS)[number];

const MAX_NODES = 200;

export const prefetchInput = z
  .strictObject({
    checkpointId,
    /** nodes to which it is brought, each once, all at the same time */
    nodes: z
      .array(nodeName)
      .min(1)
      .max(MAX_NODES)
      .refine((nodes) => new Set(nodes).size === nodes.length, 'a node is named twice'),
    /** `ram`, `nvme`: packs, as stored, in that tier of the node; `local`: files, checked, from which a restore starts */
    tier: z.enum(PREFETCH_TIERS).default('nvme'),
    /** keeps the packs in the tier until it expires, or is taken away by `kybernate tiers --unpin` */
    pin: z
      .strictObject({
        /** for so long from now; for ever otherwise */
        expiresAfterMs: durationMs.optional(),
      })
      .optional(),
    /** time limits of the steps */
    timeouts: timeoutsWithDefaults,
  })
  .refine((input) => input.tier !== 'local' || input.pin === undefined, {
    message: 'only packs in a tier are pinned; files of `local` stay until `kybernate rm --local`',
    path: ['pin'],
  });
export type PrefetchRequest = z.input<typeof prefetchInput>;
export type PrefetchInput = z.output<typeof prefetchInput>;

/** Where bytes came from (`ram`, `nvme`, `peer:<node>`, `store`) → how many. */
export type PrefetchSources = Readonly<Record<string, number>>;

export interface PrefetchStepInput {
  /** for the reports of its progress */
  readonly node: string;
  readonly checkpointId: string;
  readonly tier: 'ram' | 'nvme';
  readonly pin?: { readonly expiresAfterMs?: number };
}

export interface PrefetchStepResult {
  /** that it is on the node now: packs as stored, or files as they are */
  readonly bytes: number;
  /** of these, were there before the last attempt */
  readonly presentBytes: number;
  readonly from: PrefetchSources;
  /** the last attempt */
  readonly seconds: number;
}

export interface PrefetchDone extends PrefetchStepResult {
  readonly node: string;
  readonly outcome: 'done';
}

export interface PrefetchFailed {
  readonly node: string;
  readonly outcome: 'failed';
  readonly error: { readonly type: string; readonly message: string };
}

export type PrefetchedNode = PrefetchDone | PrefetchFailed;

export interface PrefetchResult {
  readonly checkpointId: string;
  readonly tier: PrefetchTier;
  /** in the order of the request; at least one is done */
  readonly nodes: readonly PrefetchedNode[];
}

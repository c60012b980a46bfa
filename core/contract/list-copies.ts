/* Contract of `listCopies`: which checkpoints have a copy on a node. Sizes are bytes. */
import * as z from 'zod';
import { nodeName, timeoutsWithDefaults } from './common.ts';

export const listCopiesInput = z.strictObject({
  /** node whose copies are listed */
  node: nodeName,
  /** the newest ones, at most so many: the list crosses Temporal */
  limit: z.int().min(1).max(1000).default(1000),
  /** time limits of the steps */
  timeouts: timeoutsWithDefaults,
});
export type ListCopiesRequest = z.input<typeof listCopiesInput>;
export type ListCopiesInput = z.output<typeof listCopiesInput>;

/** A copy on a node, with what a list shows of its checkpoint. */
export interface NodeCopy {
  readonly checkpointId: string;
  /** ISO time */
  readonly createdAt: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly container: {
    readonly id: string;
    readonly namespace: string;
    readonly pod?: { readonly namespace: string; readonly name: string; readonly container: string } | undefined;
    readonly docker?: { readonly name: string } | undefined;
  };
  /** where it was taken */
  readonly takenOn: string;
  readonly totalBytes: number;
  /** on its way to the store */
  readonly uploadPending: boolean;
  /** directory on the node */
  readonly path: string;
}

export interface ListCopiesResult {
  readonly node: string;
  /** newest first */
  readonly copies: readonly NodeCopy[];
  /** copies behind the limit */
  readonly more: number;
  /** directories that are checkpoints and cannot be read; the first ones, at most 100 */
  readonly damaged: ReadonlyArray<{ readonly checkpointId: string; readonly reason: string }>;
}

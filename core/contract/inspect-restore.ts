/* Contract of `inspectRestore`: what became of a restore that a pod's annotation has asked for. */
import * as z from 'zod';
import { POD_CONTAINER_PATTERN, POD_UID_PATTERN } from '../ids.ts';
import { nodeName, timeoutsWithDefaults } from './common.ts';

export const inspectRestoreInput = z.strictObject({
  /** node on which the pod runs */
  node: nodeName,
  /** container of a pod, by the uid of the pod */
  pod: z.strictObject({
    uid: z.string().regex(POD_UID_PATTERN, 'a uid of a pod'),
    container: z.string().regex(POD_CONTAINER_PATTERN, 'a name of a container in a pod'),
  }),
  /** time limits of the steps */
  timeouts: timeoutsWithDefaults,
});
export type InspectRestoreRequest = z.input<typeof inspectRestoreInput>;
export type InspectRestoreInput = z.output<typeof inspectRestoreInput>;

/** How a container that asked for a restore began to run. */
export interface StartOutcome {
  /** `cold-started`: afresh, under the policy of that name */
  readonly how: 'restored' | 'cold-started';
  /** what it asked for: a checkpoint id or a path */
  readonly restoreFrom: string;
  /** ISO time */
  readonly at: string;
  /** of a cold start: why nothing was restored */
  readonly reason?: string;
}

export interface InspectRestoreResult {
  readonly node: string;
  /** of its last start that asked for one; absent: its runtime never brought back anything, nor tried and gave up */
  readonly outcome?: StartOutcome;
}

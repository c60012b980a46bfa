/* Contract of `importCheckpoint`: an archive on a node, as the kubelet's checkpoint API leaves it, becomes a checkpoint. */
import * as z from 'zod';
import { absolutePath, checkpointId, nodeName, timeoutsWithDefaults } from './common.ts';
import { checkpointInput } from './checkpoint.ts';

export const importCheckpointInput = z.strictObject({
  /** node on whose disk the archive lies */
  node: nodeName,
  /** a file below `checkpoints` in the node's `KYBERNATE_KUBELET_DIR`, and nowhere else */
  archive: absolutePath,
  /** id of the checkpoint; made of the container's name and the content otherwise */
  checkpointId: checkpointId.optional(),
  /** the archive must be of a pod of this Kubernetes namespace; absent: of any, or of none */
  podNamespace: z.string().min(1).max(253).optional(),
  /** how far the checkpoint must have come before the workflow completes, as of `checkpoint` */
  durability: checkpointInput.shape.durability,
  /** free text pairs kept with the checkpoint, for `kybernate ls`; an archive of ours keeps its own */
  labels: checkpointInput.shape.labels,
  /** time limits of the steps */
  timeouts: timeoutsWithDefaults,
});
export type ImportCheckpointRequest = z.input<typeof importCheckpointInput>;
export type ImportCheckpointInput = z.output<typeof importCheckpointInput>;

export type ImportStepInput = Pick<ImportCheckpointInput, 'archive' | 'checkpointId' | 'podNamespace' | 'labels'>;

export interface ImportStepResult {
  readonly checkpointId: string;
  /** directory on the node */
  readonly localPath: string;
  readonly totalBytes: number;
  /** false: the same was there already */
  readonly created: boolean;
  /** the pod that it is of, where the archive says one */
  readonly pod?: { readonly namespace: string; readonly name: string; readonly container: string };
  readonly warnings: readonly string[];
}

export interface ImportCheckpointResult extends ImportStepResult {
  readonly node: string;
  /** what was reached */
  readonly durability: ImportCheckpointInput['durability'];
  /** what was sent to the store; 0 with `local` */
  readonly storedBytes: number;
  /** manifest in the store, absent with `local` */
  readonly remote?: string;
}

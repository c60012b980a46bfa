/*
 * The contract of the workflow `preflight` and of its steps: would this checkpoint run on that node, can this container
 * be checkpointed there? Nothing is touched.
 */
import * as z from 'zod';
import type { Finding } from '../preflight.ts';
import {
  absolutePath,
  checkpointId,
  containerId,
  containerTarget,
  dockerName,
  durationMs,
  namespace,
  nodeName,
  timeoutsWithDefaults,
} from './common.ts';
import { captureVolumes } from './checkpoint.ts';
import { gpuOptionsWithDefaults, gpuPair, type GpuOptions } from './gpu.ts';
import { livenessProbe } from './liveness.ts';

export const preflightInput = z
  .strictObject({
    /** node that looks, and is looked at */
    node: nodeName,
    /** would this checkpoint run there? */
    checkpointId: checkpointId.optional(),
    /** can this container be checkpointed there? */
    container: containerTarget.optional(),
    /** as for a checkpoint (default `keep`) or for a restore (default `close`) */
    tcp: z.enum(['keep', 'close']).optional(),
    /** of a restore: network namespace to join; that of the captured spec otherwise */
    networkNamespace: absolutePath.optional(),
    /** of a restore: which GPU stands in for which */
    gpuMap: z.array(gpuPair).default([]),
    /** of a restore: the container to be made */
    as: z
      .strictObject({
        id: containerId.optional(),
        namespace: namespace.optional(),
        /** by the Docker daemon: under the name of its source, or this one */
        docker: z.union([z.literal(true), dockerName]).optional(),
      })
      .prefault({}),
    /** of a restore: which copy is looked at, and so whether there must be room for one */
    source: z.enum(['auto', 'local', 'store']).default('auto'),
    /** of a checkpoint */
    engine: z.enum(['runc', 'containerd']).default('runc'),
    /** of a checkpoint: what is to become of the source */
    after: z.enum(['resume', 'hold', 'stop']).default('resume'),
    /** of a checkpoint: volumes of the pod whose content is to be taken along, as in its request */
    captureVolumes: captureVolumes.optional(),
    /** of a checkpoint: would the kubelet restart its source by this probe? The node cannot look it up. */
    livenessProbe: livenessProbe.optional(),
    /** of a checkpoint with a liveness probe: as it would be given */
    freezeBudgetMs: durationMs.optional(),
    /** of a checkpoint with a liveness probe that is to `hold`, or to `stop` */
    holdBudgetMs: durationMs.default(600_000),
    /** of a checkpoint: what holds for its GPU processes */
    gpu: gpuOptionsWithDefaults,
    /** time limits of the steps */
    timeouts: timeoutsWithDefaults,
  })
  .refine((input) => (input.checkpointId === undefined) !== (input.container === undefined), {
    message: 'give either checkpointId or container',
    path: ['checkpointId'],
  });
export type PreflightRequest = z.input<typeof preflightInput>;
export type PreflightInput = z.output<typeof preflightInput>;

export interface PreflightResult {
  readonly node: string;
  /** that it would become, or is */
  readonly container: { readonly namespace: string; readonly id: string };
  readonly checkpointId?: string;
  /** the copy that was looked at */
  readonly from?: 'local' | 'store';
  /** no finding is an error */
  readonly fits: boolean;
  /** errors first */
  readonly findings: readonly Finding[];
  /** what the look took on the node, without reading the checkpoint's own description */
  readonly checkMs: number;
}

// ---- steps on the node ----

export interface PreflightRestoreInput {
  readonly checkpointId: string;
  readonly from: 'local' | 'store';
  readonly container: { readonly namespace: string; readonly id: string };
  readonly docker?: true;
  readonly tcp: 'keep' | 'close';
  readonly networkNamespace?: string;
  readonly gpuMap: ReadonlyArray<{ readonly from: string; readonly to: string }>;
  /** UUIDs of the node's GPUs that are not to be used */
  readonly avoidGpus?: readonly string[];
  /** look whether the container's name is free; a restore finds out when it makes the container */
  readonly name?: boolean;
}

export interface PreflightCheckpointInput {
  readonly container: z.output<typeof containerTarget>;
  readonly engine: 'runc' | 'containerd';
  readonly tcp: 'keep' | 'close';
  readonly after: 'resume' | 'hold' | 'stop';
  readonly captureVolumes?: readonly string[];
  readonly gpu: GpuOptions;
}

export interface PreflightStepResult {
  readonly container: { readonly namespace: string; readonly id: string };
  readonly findings: readonly Finding[];
  readonly checkMs: number;
}

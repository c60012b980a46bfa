/*
 * The Kubernetes objects `Checkpoint` and `Restore` (kybernate.io/v1alpha1): what users write in `spec`, what the
 * operator tells in `status`. The CRDs of the chart are made from these schemas.
 */
import * as z from 'zod';
import { checkpointInput } from './checkpoint.ts';
import { absolutePath, checkpointId, durationMs, nodeName } from './common.ts';

export const API_GROUP = 'kybernate.io';
export const API_VERSION = 'v1alpha1';

const objectName = z
  .string()
  .max(253)
  .regex(/^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/, 'a name of a Kubernetes object');
const containerName = z
  .string()
  .max(63)
  .regex(/^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/, 'a name of a container in a pod');

const { after, durability, engine, tcp, freezeBudgetMs, holdBudgetMs, captureVolumes, gpu, health, labels } =
  checkpointInput.shape;

export const kubernetesCheckpointSpec = z
  .strictObject({
    /** pod of the same namespace whose container is captured */
    pod: objectName.optional(),
    /** in its place: what the kubelet's checkpoint API has left on a node; what is said of a capture then means nothing */
    source: z
      .strictObject({
        /** node on which the archive lies */
        node: nodeName,
        /** file below the node's directory of kubelet checkpoints, of a pod of the same namespace */
        archive: absolutePath,
      })
      .optional(),
    /** its name in the pod; the only one otherwise */
    container: containerName.optional(),
    /** id of the checkpoint; `<namespace>-<name>-<8 digits of the object's uid>` otherwise */
    checkpointId: checkpointId.optional(),
    /** what happens to the source: `resume`, `hold` (frozen until `holdBudgetMs` is over), `stop` */
    after,
    /** how far the checkpoint must have come before the object is ready: `local`, `remote`, `verified` */
    durability,
    /** `runc`: beside containerd, with our options; `containerd`: through Tasks.Checkpoint and the shim */
    engine,
    /** what becomes of open TCP connections: `keep` captures them, `close` closes them at a restore */
    tcp,
    /**
     * longest time that the workload may stand still; 60 s otherwise, or a second less than its liveness probe allows. A
     * longer one than the probe allows is refused
     */
    freezeBudgetMs,
    /** longest time that `hold` keeps the workload frozen; with `freezeBudgetMs` no longer than the probe allows */
    holdBudgetMs,
    /**
     * volumes of the pod whose content is taken along: names of emptyDirs, and `/dev/shm`; `-` alone for none. What the pod's
     * annotation says otherwise
     */
    captureVolumes,
    /** what holds for processes that use a GPU */
    gpu,
    /** program of the container that exits with 0 while the workload is well; asked when it was let go */
    health,
    /** free text pairs kept with the checkpoint, for `kybernate ls` */
    labels,
    /** how long to wait for the pod to exist and to run before the object fails */
    podWaitMs: durationMs.default(300_000),
    /** what becomes of the checkpoint when this object is deleted: it stays, or goes from the store and the nodes; may be changed */
    deletionPolicy: z.enum(['Retain', 'Delete']).default('Retain'),
  })
  .refine(({ pod, source }) => (pod === undefined) !== (source === undefined), {
    message: 'give either pod or source',
    path: ['pod'],
  });
export type KubernetesCheckpointSpec = z.output<typeof kubernetesCheckpointSpec>;

export const kubernetesRestoreSpec = z
  .strictObject({
    /** `Checkpoint` of the same namespace; the restore waits until it is ready */
    checkpoint: objectName.optional(),
    /** in its place the id of a checkpoint, as `kybernate ls` shows it; needs `template` */
    checkpointId: checkpointId.optional(),
    /** name of the pod that is made; that of this object otherwise */
    pod: objectName.optional(),
    /** container that is restored; that of the checkpoint otherwise, or the only one of the template */
    container: containerName.optional(),
    /** pod template (`metadata.labels`, `metadata.annotations`, `spec`); that of the checkpointed pod otherwise */
    template: z.record(z.string(), z.unknown()).optional(),
    /** node on which the pod is to run; the scheduler chooses otherwise */
    node: nodeName.optional(),
    /** runtime class of the pod; that of the template otherwise, else `kybernate`, or `kybernate-gpu` with a GPU */
    runtimeClassName: objectName.optional(),
    /** what becomes of TCP connections that were open at the checkpoint */
    tcp: z.enum(['keep', 'close']).default('close'),
    /** what to do when the state cannot be brought back: `fail`, or start the container afresh */
    onFailure: z.enum(['fail', 'cold-start']).default('fail'),
    /** how long the pod may take until it is ready, from its making on */
    readyWaitMs: durationMs.default(900_000),
  })
  .refine((spec) => (spec.checkpoint === undefined) !== (spec.checkpointId === undefined), {
    message: 'give either checkpoint or checkpointId',
    path: ['checkpoint'],
  })
  .refine((spec) => spec.checkpointId === undefined || spec.template !== undefined, {
    message: 'a checkpointId needs a template of the pod: only a Checkpoint object knows its source',
    path: ['template'],
  });
export type KubernetesRestoreSpec = z.output<typeof kubernetesRestoreSpec>;

const texts = z.record(z.string(), z.string()).nullish();

/** As much of a pod's template as the operator reads itself; the rest is for the API server to judge. */
export const podTemplate = z.looseObject({
  metadata: z.looseObject({ labels: texts, annotations: texts }).nullish(),
  spec: z.looseObject({
    containers: z.array(z.looseObject({ name: containerName })).min(1),
    nodeSelector: texts,
    runtimeClassName: z.string().nullish(),
  }),
});

/** As `metav1.Condition`. */
export const condition = z.strictObject({
  type: z.string(),
  status: z.enum(['True', 'False', 'Unknown']),
  /** an error type of docs/errors.md, or one word in camel case */
  reason: z.string(),
  message: z.string(),
  /** RFC 3339 */
  lastTransitionTime: z.string(),
  observedGeneration: z.int().optional(),
});
export type Condition = z.output<typeof condition>;

export const kubernetesCheckpointStatus = z.strictObject({
  /** `Pending`, `Running`, `Ready`, `Failed` or `Cancelled`, the last three final; `Deleting`: the checkpoint is to go */
  phase: z.enum(['Pending', 'Running', 'Ready', 'Failed', 'Cancelled', 'Deleting']),
  /** what the operation does now: a phase of docs/operations.md */
  step: z.string().optional(),
  /** workflow that does it */
  workflowId: z.string().optional(),
  checkpointId: z.string().optional(),
  /** container of the pod that was captured */
  container: z.string().optional(),
  node: z.string().optional(),
  /** how long the workload stood still */
  freezeMs: z.number().optional(),
  /** size of all files of the checkpoint */
  totalBytes: z.int().optional(),
  /** what was sent to the store */
  storedBytes: z.int().optional(),
  /** manifest in the store */
  remote: z.string().optional(),
  gpuProcesses: z.int().optional(),
  /** there is a checkpoint that this object has made, also where it failed later: `deletionPolicy: Delete` means this one */
  owned: z.boolean().optional(),
  startedAt: z.string().optional(),
  completedAt: z.string().optional(),
  /** of the pod at the checkpoint, without what belongs to that one pod: a `Restore` makes its pod of it */
  podTemplate: z.record(z.string(), z.unknown()).optional(),
  conditions: z.array(condition).optional(),
});
export type KubernetesCheckpointStatus = z.output<typeof kubernetesCheckpointStatus>;

export const kubernetesRestoreStatus = z.strictObject({
  /** `Pending`, `Restoring`, `Ready`, `Failed` or `Cancelled`; the last three are final */
  phase: z.enum(['Pending', 'Restoring', 'Ready', 'Failed', 'Cancelled']),
  checkpointId: z.string().optional(),
  pod: z.string().optional(),
  podUid: z.string().optional(),
  container: z.string().optional(),
  node: z.string().optional(),
  /** how the container began, in the words of its node: `restored`, or `cold-started` under `onFailure` */
  how: z.enum(['restored', 'cold-started']).optional(),
  startedAt: z.string().optional(),
  completedAt: z.string().optional(),
  conditions: z.array(condition).optional(),
});
export type KubernetesRestoreStatus = z.output<typeof kubernetesRestoreStatus>;

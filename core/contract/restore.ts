/*
 * The contract of the workflow `restore` and of its steps, and of the two calls that the runtime wrapper makes to the
 * agent on its node.
 */
import * as z from 'zod';
import {
  absolutePath,
  checkpointId,
  containerId,
  dockerName,
  durationMs,
  namespace,
  nodeName,
  podWord,
  runtimeContainer,
  timeoutsWithDefaults,
} from './common.ts';
import type { ErrorType } from '../errors.ts';
import type { HookPlan } from '../hooks.ts';
import type { GpuFit } from '../oci/gpu-fit.ts';
import { gpuPair } from './gpu.ts';
import { DEFAULT_LADDER, RUNG_NAMES, type DamagedCopy, type RungReport } from './ladder.ts';

export const restoreInput = z
  .strictObject({
    /** node on which the container is to run */
    node: nodeName,
    checkpointId: checkpointId.optional(),
    /** a bare image directory on the node, without metadata; needs `unverified` and a configured restore root */
    path: absolutePath.optional(),
    unverified: z.boolean().default(false),
    container: z
      .strictObject({
        /** id of the new container; `<source id>-r<8 digits>` otherwise */
        id: containerId.optional(),
        /** containerd namespace; that of the source otherwise */
        namespace: namespace.optional(),
        /**
         * made and started by the node's Docker daemon, of a checkpoint of a Docker container: `true` under the name of
         * its source, which continues when it is there and stopped; or under this name
         */
        docker: z.union([z.literal(true), dockerName]).optional(),
      })
      .refine(({ id, namespace: named, docker }) => docker === undefined || (id === undefined && named === undefined), {
        message: 'Docker chooses id and namespace: give docker: <name>',
      })
      .prefault({}),
    /** `keep` needs the same addresses: the source's network namespace or its IP. `close` lets peers reconnect. */
    tcp: z.enum(['keep', 'close']).default('close'),
    /** network namespace to join; that of the captured spec otherwise (a new one, if the source had a private one) */
    networkNamespace: absolutePath.optional(),
    /** stdin is /dev/null; `log` appends stdout and stderr to a file of the node, `null` drops them */
    stdio: z
      .strictObject({ kind: z.enum(['null', 'log']).default('null'), path: absolutePath.optional() })
      .prefault({}),
    /** `store` reads every byte from the store and replaces a copy on the node; `local` never asks the store */
    source: z.enum(['auto', 'local', 'store']).default('auto'),
    /**
     * what is tried, in this order, each only where it can help; the default gives what was asked for, the others change
     * it and must be named
     */
    ladder: z
      .array(z.enum(RUNG_NAMES))
      .min(1)
      .max(16)
      .default([...DEFAULT_LADDER]),
    /** nodes that may have a copy, for the rung `peer`; the node of the checkpoint is asked in any case */
    peers: z.array(nodeName).max(16).default([]),
    /** for the rung `another-node` */
    otherNodes: z.array(nodeName).max(16).default([]),
    /** what to do when CRIU refuses: fail, or start the container afresh */
    onFailure: z.enum(['fail', 'cold-start']).default('fail'),
    /**
     * Which GPU stands in for which, by UUID. Those of the checkpoint that are not named keep their place where the node
     * has them, and get free ones of the same model elsewhere.
     */
    gpuMap: z.array(gpuPair).default([]),
    /** longest time for the runtime to bring the processes back, GPU memory included */
    restoreBudgetMs: durationMs.default(300_000),
    timeouts: timeoutsWithDefaults,
  })
  .refine((input) => (input.checkpointId === undefined) !== (input.path === undefined), {
    message: 'give either checkpointId or path',
    path: ['checkpointId'],
  })
  .refine((input) => input.path === undefined || input.unverified, {
    message: 'a path restores only with unverified: true',
    path: ['unverified'],
  })
  .refine((input) => input.stdio.kind !== 'log' || input.stdio.path !== undefined, {
    message: 'stdio.kind log needs a path',
    path: ['stdio', 'path'],
  });
export type RestoreInput = z.output<typeof restoreInput>;
export type RestoreRequest = z.input<typeof restoreInput>;

export interface RestoreResult {
  readonly checkpointId?: string;
  readonly node: string;
  readonly container: { readonly namespace: string; readonly id: string };
  /** as Docker knows it; absent where containerd alone does */
  readonly docker?: DockerRef;
  readonly initHostPid: number;
  /** `restored`, or `cold-started` under the policy of that name */
  readonly how: 'restored' | 'cold-started';
  /** from the first instruction of the runtime to running processes */
  readonly restoreMs: number;
  readonly fetchedBytes: number;
  /** where the images came from */
  readonly from: 'local' | 'store' | 'path';
  readonly gpuProcesses: number;
  /** what was tried, in order; the last one gave this result */
  readonly rungs: readonly RungReport[];
  /** copies that are damaged, or were until this restore replaced them */
  readonly damaged: readonly DamagedCopy[];
  /** how the GPUs came back; absent without a GPU */
  readonly gpu?: GpuRestoreFacts;
  readonly warnings: readonly string[];
}

export interface DockerRef {
  readonly id: string;
  readonly name: string;
}

export interface GpuRestoreFacts {
  readonly processes: number;
  readonly vramBytes: number;
  /** every GPU that was visible at the dump, and the one that took its place */
  readonly map: ReadonlyArray<{ readonly from: string; readonly to: string }>;
  /** from the end of the runtime's restore to the last unlock, part of `restoreMs` */
  readonly restoreMs: number;
  /** name of a part to its duration in ms: gpu-devices, gpu-restore, gpu-unlock */
  readonly parts: Readonly<Record<string, number>>;
  /** the workload runs, but something beside it is not as it should be */
  readonly warnings: readonly string[];
}

// ---- steps ----

export interface ResolveInput {
  readonly node: string;
  readonly checkpointId?: string;
  readonly path?: string;
  readonly unverified: boolean;
  readonly source: 'auto' | 'local' | 'store';
}

/** What the workflow needs to know of a checkpoint before it touches a node's disk. */
export interface ResolveResult {
  readonly from: 'local' | 'store' | 'path';
  readonly totalBytes: number;
  /** absent where it is not known before the copy is read */
  readonly kind?: 'container' | 'processes';
  readonly merkleRoot?: string;
  readonly sourceContainer?: { readonly namespace: string; readonly id: string };
  /** name of the source in Docker; absent for a container that was not Docker's */
  readonly dockerName?: string;
  /** node where it was taken, and ISO time of its commit */
  readonly sourceNode?: string;
  readonly createdAt?: string;
  /** unknown for a bare image directory */
  readonly gpuProcesses?: number;
}

export interface RestoreContext {
  readonly checkpointId?: string;
  readonly path?: string;
  /** the container to be made */
  readonly container: { readonly namespace: string; readonly id: string };
  /** the Docker daemon makes it: `container.id` is the name there, since its id is not known before */
  readonly docker?: true;
  readonly token: number;
}

export interface FetchImageResult {
  readonly localPath: string;
  readonly fetchedBytes: number;
  readonly from: 'local' | 'store' | 'path';
}

export interface PlanRestoreInput {
  readonly context: RestoreContext;
  readonly tcp: 'keep' | 'close';
  readonly networkNamespace?: string;
  readonly gpuMap: ReadonlyArray<{ readonly from: string; readonly to: string }>;
  /** UUIDs of the node's GPUs that are not to be used */
  readonly avoidGpus?: readonly string[];
}

export interface PlanRestoreResult {
  readonly warnings: readonly string[];
  /** every GPU that was visible at the dump, and the one that takes its place; absent without a GPU */
  readonly gpuMap?: ReadonlyArray<{ readonly from: string; readonly to: string }>;
}

export interface CreateContainerInput {
  readonly context: RestoreContext;
  readonly localPath: string;
  readonly tcp: 'keep' | 'close';
  readonly networkNamespace?: string;
  readonly gpuMap: ReadonlyArray<{ readonly from: string; readonly to: string }>;
  readonly avoidGpus?: readonly string[];
  readonly onFailure: 'fail' | 'cold-start';
  readonly stdio: { readonly kind: 'null' | 'log'; readonly path?: string };
}

export interface StartRestoredResult {
  readonly initHostPid: number;
  readonly restoreMs: number;
  readonly how: 'restored' | 'cold-started';
  readonly gpu?: GpuRestoreFacts;
  /** of hook scripts; absent without any */
  readonly warnings?: readonly string[];
  readonly docker?: DockerRef;
}

/** A cold start: the specification of the checkpoint, and none of its state. */
export interface CreateColdInput {
  readonly context: RestoreContext;
  /** where the specification is read */
  readonly from: 'local' | 'store';
  readonly networkNamespace?: string;
  readonly stdio: { readonly kind: 'null' | 'log'; readonly path?: string };
}

/** Checkpoints of the same container on the same node, committed before a time. */
export interface OlderInput {
  readonly container: { readonly namespace: string; readonly id: string };
  readonly sourceNode: string;
  /** ISO time */
  readonly before: string;
}

/** Newest first. */
export interface OlderResult {
  readonly checkpoints: ReadonlyArray<{ readonly checkpointId: string; readonly createdAt: string }>;
}

// ---- the wrapper's calls to the agent: POST /v1/prepare-restore and /v1/complete-restore on the agent socket ----

export const prepareRestoreRequest = z.strictObject({
  /** operation that made this container, from the annotation `kybernate.io/operation`; absent when others made it */
  operationId: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .optional(),
  /** what `kybernate.io/restore-from` or RESTORE_FROM says: a checkpoint id or an absolute path */
  restoreFrom: z.string().min(1).max(4096),
  /** where the wish came from; the environment takes ids only and may be switched off */
  origin: z.enum(['annotation', 'environment']),
  container: runtimeContainer.partial({ namespace: true }),
  bundle: absolutePath,
  /** runc's `--root` */
  runcRoot: absolutePath.optional(),
  /** what the container's annotations say; an operation that made the container overrules them */
  tcp: z.enum(['keep', 'close']).default('close'),
  /** `wait` is `fail` here: it is the wrapper that asks again */
  onFailure: z.enum(['fail', 'cold-start', 'wait']).default('fail'),
  /** allows a bare image directory */
  unverified: z.boolean().default(false),
  pod: z
    .strictObject({
      namespace: podWord,
      name: podWord,
      uid: podWord.optional(),
      /** its name in the pod */
      container: podWord.optional(),
      /** the wish names this container, not the pod as a whole */
      named: z.boolean().default(false),
    })
    .optional(),
  /** how long the caller waits for a checkpoint that is still on its way; it goes on, and the next call joins it */
  waitMs: z.int().min(0).max(86_400_000).optional(),
});
/** As the agent reads it. */
export type PrepareRestoreRequest = z.output<typeof prepareRestoreRequest>;
/** As the wrapper writes it. */
export type PrepareRestoreCall = z.input<typeof prepareRestoreRequest>;

export interface PrepareRestoreResponse {
  readonly operationId: string;
  /** verified directory of the checkpoint, read-only, leased to this restore */
  readonly checkpointDir: string;
  /** directory of the CRIU images: `<checkpointDir>/criu`, or the path itself for a bare image */
  readonly imageDir: string;
  /** for CRIU's work files and logs of this restore; exists, empty */
  readonly workDir: string;
  readonly tcp: 'keep' | 'close';
  readonly onFailure: 'fail' | 'cold-start';
  /** false for a bare image directory: there is no metadata, spec or rw layer to apply */
  readonly hasMetadata: boolean;
  /** the wrapper ends a `runc restore` that takes longer */
  readonly restoreBudgetMs: number;
  /** what the specification must offer for GPU processes; absent without one */
  readonly gpu?: GpuFit;
  /** what the checkpoint has of volumes, and the directories of the pod, or of a container outside of pods, that take it */
  readonly volumes?: ReadonlyArray<{
    /** archive, below `checkpointDir` */
    readonly file: string;
    readonly dir: string;
  }>;
  /** hook scripts that the wrapper runs; absent without any */
  readonly hooks?: RestoreHooks;
  /** W3C Trace Context of the restore; absent without traces. With it the wrapper tells its spans, and gives it on. */
  readonly traceparent?: string;
}

export interface RestoreHooks {
  readonly plan: HookPlan;
  readonly node: string;
  /** absent for a bare image directory */
  readonly checkpointId?: string;
  /** by which CRIU tells its events, for its option `action-script` */
  readonly actionScript: string;
}

export const completeRestoreRequest = z.strictObject({
  operationId: z.string().regex(/^[0-9a-f]{32}$/),
  container: runtimeContainer.partial({ namespace: true }),
  outcome: z.enum(['restored', 'cold-started', 'failed']),
  initHostPid: z.number().int().min(0),
  restoreMs: z.number().min(0),
  /** name of a part to its duration in ms */
  parts: z.record(z.string(), z.number()).default({}),
  /** last error lines of CRIU and runc when the outcome is not `restored` */
  errors: z.array(z.string().max(1000)).max(40).default([]),
  /** why it failed, where it was not the runtime */
  errorType: z.enum(['HookFailed']).optional(),
  /** of hook scripts that failed and may not refuse */
  warnings: z.array(z.string().max(2000)).max(40).default([]),
  /** what the wrapper did when, in ms since 1970; only where the answer to the first call had a `traceparent` */
  spans: z
    .array(z.strictObject({ name: z.string().max(64), startMs: z.number(), endMs: z.number() }))
    .max(64)
    .default([]),
});
export type CompleteRestoreRequest = z.output<typeof completeRestoreRequest>;
export type CompleteRestoreCall = z.input<typeof completeRestoreRequest>;

export interface CompleteRestoreResponse {
  /** false: the wrapper must end the container again (GPU restore failed) */
  readonly proceed: boolean;
  /** why not */
  readonly reason?: string;
  /** what kind of reason; absent: RestoreFailed, or an agent of before */
  readonly errorType?: ErrorType;
  /** the operation that made the container will try once more: neither a cold start now, nor a last word */
  readonly again?: boolean;
}

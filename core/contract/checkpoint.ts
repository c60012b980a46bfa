/*
 * The contract of the workflow `checkpoint` and of its steps. One JSON object in, one out.
 */
import * as z from 'zod';
import { checkpointId, containerTarget, durationMs, nodeName, timeoutsWithDefaults } from './common.ts';
import { processTarget, type ProcessId, type ProcessTarget } from './process.ts';
import { gpuOptionsWithDefaults, type GpuOptions } from './gpu.ts';
import { livenessProbe } from './liveness.ts';

/** A program of the container that exits with 0 while the workload is well. */
export const healthCheck = z.strictObject({
  /** program and arguments, started in the container without a shell */
  command: z.array(z.string().max(4096)).min(1).max(64),
  /** it is tried again until it succeeds or this is over */
  timeoutMs: durationMs.max(120_000).default(10_000),
});
export type HealthCheck = z.output<typeof healthCheck>;

/** Names of the volumes whose content a checkpoint takes along; `-` alone for none. */
export const captureVolumes = z
  .array(
    z.string().regex(/^(?:-|\/dev\/shm|[a-z0-9][a-z0-9-]{0,62})$/, 'a name of a volume such as cache, /dev/shm, or -'),
  )
  .min(1)
  .max(64)
  .refine((names) => names.length === 1 || !names.includes('-'), '- stands alone: it means none');

export const checkpointInput = z
  .strictObject({
    /** node that runs the container; its worker serves the queue `kybernate-node-<node>` */
    node: nodeName,
    container: containerTarget.optional(),
    /** in place of a container: a process of the node, with all below it; its files stay the node's */
    process: processTarget.optional(),
    /** chosen by the caller to make the call idempotent; made from the start time otherwise */
    checkpointId: checkpointId.optional(),
    /**
     * What happens to the source: `resume` lets it run on as soon as it is captured; `hold` leaves it frozen after the
     * local commit until the signal `release` or the end of `holdBudgetMs`; `stop` ends it once `durability` is reached.
     */
    after: z.enum(['resume', 'hold', 'stop']).default('resume'),
    /** How far the checkpoint must have come before the workflow completes. `verified` reads it back from the store. */
    durability: z.enum(['local', 'remote', 'verified']).default('remote'),
    /** `runc`: beside containerd, with our options. `containerd`: through Tasks.Checkpoint and the shim. */
    engine: z.enum(['runc', 'containerd']).default('runc'),
    /**
     * `keep`: the state of established TCP connections is captured, the restore decides. With `after: stop` the
     * connections stay locked until the restore, so that no byte is lost.
     * `close`: a restore always finds them closed.
     */
    tcp: z.enum(['keep', 'close']).default('keep'),
    /**
     * Longest time that the workload may stand still; `60000` otherwise, or a second less than `livenessProbe` allows. The
     * runner undoes the capture when it is exceeded.
     */
    freezeBudgetMs: durationMs.optional(),
    /** Longest time that `hold` keeps the workload frozen before it runs on by itself. */
    holdBudgetMs: durationMs.default(600_000),
    /**
     * Liveness probe of a container in a pod, for a container that starts still its startup probe: budgets longer than it
     * allows are `Incompatible`. The node cannot look it up.
     */
    livenessProbe: livenessProbe.optional(),
    /**
     * Volumes of the container's pod whose content is taken along: names of emptyDirs, and `/dev/shm`; `-` alone for none. What
     * the pod's annotation `kybernate.io/capture-volumes` says otherwise, and `/dev/shm` where it says nothing.
     */
    captureVolumes: captureVolumes.optional(),
    /** what holds for the processes of the container that use a GPU; ignored where there are none */
    gpu: gpuOptionsWithDefaults,
    /**
     * Asked when the source was let go. One that is not well after a checkpoint is a warning of its result; after an
     * operation that failed or was cancelled it is `Poisoned`.
     */
    health: healthCheck.optional(),
    /** free text pairs kept with the checkpoint, for `kybernate ls` */
    labels: z.record(z.string().max(63), z.string().max(255)).default({}),
    timeouts: timeoutsWithDefaults,
  })
  .refine((input) => (input.container === undefined) !== (input.process === undefined), {
    message: 'give either container or process',
    path: ['container'],
  })
  .refine((input) => input.process === undefined || input.captureVolumes === undefined, {
    message: "processes have no volumes: their files stay the node's",
    path: ['captureVolumes'],
  });
export type CheckpointInput = z.output<typeof checkpointInput>;
/** What a caller writes: every field with a default may be left out. */
export type CheckpointRequest = z.input<typeof checkpointInput>;

/** Times inside the runner; they add up to `totalMs` but for `unaccountedMs`. */
export interface PhaseTimes {
  /** time that the workload stood still, from our first write to the freezer to the last */
  readonly freezeMs: number;
  /** time that the GPU was out of use, from the first lock to the last unlock; absent without a GPU */
  readonly gpuPauseMs?: number;
  readonly totalMs: number;
  readonly unaccountedMs: number;
  /** name of a part to its duration in ms, in order of time */
  readonly parts: Readonly<Record<string, number>>;
}

export interface CheckpointResult {
  readonly checkpointId: string;
  readonly node: string;
  /** containerd namespace and id of the source; of a process `process` and `<pid>-<start time>` */
  readonly container: { readonly namespace: string; readonly id: string };
  /** what was reached */
  readonly durability: 'local' | 'remote' | 'verified';
  readonly source: 'running' | 'held' | 'stopped';
  readonly freezeMs: number;
  readonly phases: PhaseTimes;
  readonly bytes: {
    /** size of all files of the checkpoint */
    readonly total: number;
    /** after leaving out zero and known chunks, compressed: what was sent to the store; 0 with `local` */
    readonly stored: number;
  };
  /** directory on the node */
  readonly localPath: string;
  /** manifest in the store, absent with `local` */
  readonly remote?: string;
  readonly gpuProcesses: number;
  /** VRAM that was saved, over all processes; 0 without a GPU */
  readonly vramBytes: number;
  readonly warnings: readonly string[];
}

// ---- steps on the node ----

/** Version of the step contracts; a node worker that speaks another one is refused before anything is touched. */
export const STEP_PROTOCOL_VERSION = 1;

/** What every step on a node carries: the operation is derived from the workflow's own ids. */
export interface StepContext {
  readonly checkpointId: string;
  readonly container: { readonly namespace: string; readonly id: string };
  /** fencing token of the container's lock; a token below the newest seen by the node is refused (`LockLost`) */
  readonly token: number;
}

export interface ProbeInput {
  /** resolve this container too (`ContainerNotFound`, `ContainerNotRunning`) */
  readonly container?: z.output<typeof containerTarget>;
  /** resolve this process too (`ProcessNotFound`) */
  readonly process?: ProcessTarget;
  /** a container that is still to be made: only the newest token is looked up */
  readonly target?: { readonly namespace: string; readonly id: string };
  /** a store is needed: ask the sidecar of the node which one it serves */
  readonly store?: boolean;
}

export interface NodeFacts {
  readonly node: string;
  readonly hostname: string;
  readonly kernel: string;
  readonly arch: string;
  readonly cpuModel: string;
  readonly cpuFlags: readonly string[];
  /** absent where /proc/cpuinfo does not name one */
  readonly cpuVendor?: string;
  /** AT_MINSIGSTKSZ; absent on kernels before 5.14 */
  readonly signalFrameBytes?: number;
  readonly cgroupVersion: 1 | 2;
  readonly criuVersion: string;
  readonly runcVersion: string;
  readonly containerdVersion: string;
  readonly gpuDriver?: string;
}

export interface ProbeResult {
  readonly facts: NodeFacts;
  /** version of the step contracts that the worker speaks */
  readonly protocolVersion: number;
  readonly container?: { readonly namespace: string; readonly id: string; readonly initHostPid: number };
  /** the process that was asked for, with its start time */
  readonly process?: ProcessId;
  /** newest fencing token that the node has seen for the container or process */
  readonly newestToken: number;
  /** URL of the store that the node's sidecar serves, when it was asked for; absent: no sidecar answers */
  readonly store?: string;
}

export interface PlanStepInput {
  readonly context: StepContext;
  /** the target is this tree of processes, named by the context */
  readonly process?: ProcessTarget;
  readonly engine: 'runc' | 'containerd';
  readonly tcp: 'keep' | 'close';
  readonly after: 'resume' | 'hold' | 'stop';
  readonly freezeBudgetMs: number;
  readonly gpu: GpuOptions;
  readonly health?: HealthCheck;
  /** absent: what the annotation of the pod says */
  readonly captureVolumes?: readonly string[];
  /** GPU state is saved and restored in place, nothing is captured: what only `rehearse` can find out is no reason to refuse */
  readonly rehearsal?: boolean;
}

/** Small: the whole plan stays on the node, in the operation's directory. */
export interface PlanStepResult {
  /** private memory of the tree plus the rw layer: what the checkpoint will take, roughly */
  readonly estimatedBytes: number;
  readonly processes: number;
  readonly gpuProcesses: number;
  /** VRAM in use by the container's processes */
  readonly vramBytes: number;
  /** CRIU options that will be used, with the reason of each */
  readonly criuOptions: ReadonlyArray<{ readonly option: string; readonly reason: string }>;
  readonly warnings: readonly string[];
}

export interface SaveGpuStateResult {
  readonly gpuProcesses: number;
  readonly vramBytes: number;
  readonly durationMs: number;
  /** name of a part to its duration in ms: quiesce, gpu-lock, gpu-save, gpu-scrub; in order of time */
  readonly parts: Readonly<Record<string, number>>;
}

export interface CaptureResult {
  readonly phases: PhaseTimes;
  readonly imageBytes: number;
  readonly rootfsBytes: number;
  readonly warnings: readonly string[];
}

/** Read back from the node after the workload was let go; every check must be true, or the error is `Poisoned`. */
export interface ResumeResult {
  readonly source: 'running' | 'held' | 'stopped' | 'gone';
  readonly checks: Readonly<Record<string, boolean>>;
  /** that were found running, at most 64 of them, the oldest first */
  readonly processes?: ReadonlyArray<{ readonly hostPid: number; readonly startTime: number }>;
  /** all of them */
  readonly processCount?: number;
  /** who brought the workload back when its capture could not; absent: it went on as planned */
  readonly by?: 'runner' | 'guard' | 'worker';
  /** why the freeze guard had to act; absent: it had not */
  readonly guard?: GuardCause;
  /** what the workload's own command says; absent: none was given, or the workload does not run */
  readonly health?: HealthResult;
  /** the runner that let the workload go restored GPU state in place; absent when another process had to */
  readonly gpu?: GpuResumeFacts;
}

/** The runner ended, or did not let the workload go when its budget was over. */
export type GuardCause = 'runner-gone' | 'freeze-budget' | 'hold-budget';

export interface HealthResult {
  readonly healthy: boolean;
  /** from the first try to the answer that counts */
  readonly tookMs: number;
  /** of the last try: exit code and the end of its output, or why there is none */
  readonly exitCode?: number;
  readonly output: string;
}

export interface GpuResumeFacts {
  /** from the first lock to the last unlock */
  readonly pauseMs: number;
  /** name of a part to its duration in ms, those of the save included; in order of time */
  readonly parts: Readonly<Record<string, number>>;
  /** the workload runs, but something beside it is not as before: a limit, or its resume hook */
  readonly warnings: readonly string[];
}

export interface CommitLocalInput {
  readonly context: StepContext;
  readonly labels: Readonly<Record<string, string>>;
  /** leaves the mark `upload.pending`, which `confirmUpload` removes */
  readonly uploadPending: boolean;
}

export interface CommitLocalResult {
  readonly localPath: string;
  readonly totalBytes: number;
  readonly files: number;
  readonly merkleRoot: string;
}

export interface UploadResult {
  /** bytes sent by this step in all its attempts; chunks found in the store are not sent */
  readonly sentBytes: number;
  readonly newChunks: number;
  readonly reusedChunks: number;
}

export interface PublishResult {
  /** where the manifest lies, as a URL of the store */
  readonly remote: string;
}

/* A tree of processes of the host as the target of an operation, and its contract of a restore. */
import * as z from 'zod';
import { absolutePath, checkpointId, durationMs, nodeName, timeoutsWithDefaults } from './common.ts';

/** PID_MAX_LIMIT of 64-bit kernels. */
const MAX_PID = 4_194_304;

export const hostPid = z.number().int().min(1).max(MAX_PID);

/** Root of a tree. Pids are used again: with its start time it names one process for good. */
export const processTarget = z.strictObject({
  /** pid as the node sees it */
  pid: hostPid,
  /** field 22 of /proc/<pid>/stat, in clock ticks after boot; absent: whatever has the pid when the operation begins */
  startTime: z.number().int().min(0).optional(),
});
export type ProcessTarget = z.output<typeof processTarget>;

/** A process that was looked at. */
export interface ProcessId {
  readonly pid: number;
  readonly startTime: number;
}

/**
 * Stands where a containerd namespace stands, in locks, results and metadata. What is a tree of processes says so by a
 * field of its own: this is a name, not a mark.
 */
export const PROCESS_NAMESPACE = 'process';

/** Name of a tree on its node: `<pid>-<start time>`. */
export function processRef(target: ProcessId): { readonly namespace: string; readonly id: string } {
  return { namespace: PROCESS_NAMESPACE, id: `${target.pid}-${target.startTime}` };
}

/** For messages: what is captured or restored, as its user calls it. */
export function workloadName({ namespace, id }: { readonly namespace: string; readonly id: string }): string {
  const pid = namespace === PROCESS_NAMESPACE ? /^(\d+)-\d+$/.exec(id)?.[1] : undefined;
  return pid === undefined ? `container ${namespace}/${id}` : `process ${pid}`;
}

const stream = z.union([z.literal('null'), absolutePath]);

export const processStdio = z.strictObject({
  /** a file of the node, or `null`; `null` otherwise */
  stdin: stream.optional(),
  /** appended to */
  stdout: stream.optional(),
  stderr: stream.optional(),
});
export type ProcessStdio = z.output<typeof processStdio>;

export const restoreProcessInput = z
  .strictObject({
    /** node on which the processes are to run */
    node: nodeName,
    checkpointId: checkpointId.optional(),
    /** directory of a checkpoint on the node, below a configured restore root */
    path: absolutePath.optional(),
    /** `keep` needs the same addresses; `close` lets peers reconnect */
    tcp: z.enum(['keep', 'close']).default('close'),
    /** in place of the standard streams that led to a pipe outside of the tree; what is not named is /dev/null */
    stdio: processStdio.prefault({}),
    /** in place of the working directory of the first process */
    directory: absolutePath.optional(),
    /** `store` reads every byte from the store; `local` never asks it */
    source: z.enum(['auto', 'local', 'store']).default('auto'),
    /** longest time for CRIU to bring the processes back */
    restoreBudgetMs: durationMs.default(300_000),
    timeouts: timeoutsWithDefaults,
  })
  .refine((input) => (input.checkpointId === undefined) !== (input.path === undefined), {
    message: 'give either checkpointId or path',
    path: ['checkpointId'],
  });
export type RestoreProcessInput = z.output<typeof restoreProcessInput>;
export type RestoreProcessRequest = z.input<typeof restoreProcessInput>;

export interface RestoreProcessResult {
  readonly checkpointId: string;
  readonly node: string;
  /** root of the tree, and its start time */
  readonly pid: number;
  readonly startTime: number;
  readonly processes: number;
  /** from the start of CRIU to running processes */
  readonly restoreMs: number;
  readonly fetchedBytes: number;
  readonly from: 'local' | 'store' | 'path';
  readonly warnings: readonly string[];
}

// ---- steps on the node ----

/** How the processes are to come back, for plan and restore alike. */
export interface RestoreProcessOptions {
  readonly tcp: 'keep' | 'close';
  readonly stdio: ProcessStdio;
  readonly directory?: string;
}

export interface RestoredProcess {
  readonly checkpointId: string;
  readonly pid: number;
  readonly startTime: number;
  readonly processes: number;
  readonly restoreMs: number;
  readonly warnings: readonly string[];
}

/*
 * What the node keeps of a restore while it lasts, in the operation's directory on tmpfs:
 *   restore.json   what is restored into what, and how far it has come; written before every act it describes
 *   owner.json     who drives it (operation-owner.ts)
 *   work-<n>/      CRIU's work directory of the n-th attempt: its configuration and logs
 * and `<runDir>/leases/<checkpointId>/<operationId>`: as long as it is there the checkpoint must not be removed.
 */
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GpuRestoreFacts } from '../core/contract/restore.ts';
import { type ErrorType, KybernateError } from '../core/errors.ts';
import { parseCheckpointId, parseOperationId } from '../core/ids.ts';
import type { OciMemory } from '../core/oci/spec.ts';
import { traceparent } from '../core/spans.ts';
import type { DockerTraces } from './docker/undo.ts';
import type { MemoryRaise } from './gpu/gpu-plan.ts';
import type { GpuRestorePlan } from './gpu/restore-target.ts';
import type { NodeSettings } from './node-deps.ts';
import { checkToken, listOperations, operationPaths, readJson, removeOperation, writeJson } from './operation.ts';
import { readOwner } from './operation-owner.ts';
import { removeNote } from './restore-notes.ts';

export interface RestoreRecord {
  readonly operationId: string;
  readonly container: { readonly namespace: string; readonly id: string };
  /** of the container's lock; absent where others made the container */
  readonly token?: number;
  /** `worker`: our own step made the container; `others`: kubelet, ctr, ... did, and asked by annotation */
  readonly madeBy: 'worker' | 'others';
  /** absent for a path */
  readonly checkpointId?: string;
  readonly checkpointDir: string;
  readonly imageDir: string;
  readonly hasMetadata: boolean;
  /** of the snapshot `kybernate-<operationId>`; empty when there is none of ours */
  readonly snapshotter: string;
  readonly tcp: 'keep' | 'close';
  readonly onFailure: 'fail' | 'cold-start';
  readonly restoreBudgetMs: number;
  readonly stdio: { readonly kind: 'null' | 'log'; readonly path?: string };
  readonly terminal: boolean;
  /** bundle of the attempt that the wrapper is making */
  readonly bundle?: string;
  /** runc's `--root` of that attempt */
  readonly runcRoot?: string;
  /** number of the newest work directory; 0 before the wrapper asked */
  readonly attempt: number;
  readonly state: 'registered' | 'prepared' | 'restored' | 'cold-started' | 'failed';
  readonly restoreMs?: number;
  /** last error lines of a failed attempt */
  readonly errors?: readonly string[];
  /** why, where it was not the runtime */
  readonly errorType?: ErrorType;
  /** of hook scripts that failed and may not refuse */
  readonly warnings?: readonly string[];
  /** where the logs of a failed attempt are kept */
  readonly savedLogs?: string;
  /** absent without GPU processes */
  readonly gpu?: GpuRestorePlan;
  /** VRAM (by UUID) and host memory that the restore will take: promised to it until it has them */
  readonly reservedVram?: Readonly<Record<string, number>>;
  readonly reservedMemoryBytes?: number;
  /** limit that the container gets when the VRAM is back; absent where it was not raised */
  readonly memoryLimit?: OciMemory;
  /** limits above the container that are raised now, or about to be; outermost first */
  readonly memoryRaises?: readonly MemoryRaise[];
  /** the GPU ran out of memory once, and this is the second and last try */
  readonly triedAgain?: boolean;
  /** nothing is restored: the runtime starts the container as any other */
  readonly cold?: boolean;
  /** its container is made by Docker under this name, or is the stopped source */
  readonly docker?: DockerTraces;
  /** how the GPUs came back */
  readonly gpuFacts?: GpuRestoreFacts;
  /** of the step that starts it, for what the wrapper does; absent without traces */
  readonly traceparent?: string;
}

type Settings = Pick<NodeSettings, 'runDir' | 'stateDir'>;

/** Saved logs of failed restores; the oldest go first. */
const MAX_SAVED_LOGS = 50;

function recordFile(settings: Settings, operationId: string): string {
  return join(operationPaths(settings, operationId).dir, 'restore.json');
}

/** @throws LockLost the operation was ended meanwhile: nothing more may come of it */
export function refuseEnded(settings: Settings, { container, token }: RestoreRecord): void {
  if (token !== undefined) {
    checkToken(settings, container, token);
  }
}

/** @returns undefined when this node knows no such restore */
export function readRestore(settings: Settings, operationId: string): RestoreRecord | undefined {
  return readJson(recordFile(settings, operationId)) as RestoreRecord | undefined;
}

/** @throws Internal when this node knows no such restore */
export function requireRestore(settings: Settings, operationId: string): RestoreRecord {
  const record = readRestore(settings, operationId);
  if (record === undefined) {
    throw new KybernateError(
      'Internal',
      `no restore ${operationId} on this node: its container was not made, or the node was rebooted since`,
    );
  }
  return record;
}

/** Atomic. Takes the lease first: a record without a lease would let the images go. */
export function writeRestore(settings: Settings, record: RestoreRecord): RestoreRecord {
  if (record.checkpointId !== undefined && record.state !== 'restored' && record.state !== 'cold-started') {
    takeLease(settings, record.checkpointId, record.operationId);
  }
  mkdirSync(operationPaths(settings, record.operationId).dir, { recursive: true, mode: 0o700 });
  writeJson(recordFile(settings, record.operationId), record);
  return record;
}

/** What the wrapper does from now on belongs to the span that is active. Nothing is written without one. */
export function noteTrace(settings: Settings, operationId: string): void {
  const parent = traceparent();
  const record = parent === undefined ? undefined : readRestore(settings, operationId);
  if (record !== undefined && parent !== undefined) {
    writeRestore(settings, { ...record, traceparent: parent });
  }
}

/** A fresh work directory; CRIU consumes what it finds in an old one. */
export function makeWorkDir(settings: Settings, operationId: string, attempt: number): string {
  const dir = workDirOf(settings, operationId, attempt);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  return dir;
}

export function workDirOf(settings: Settings, operationId: string, attempt: number): string {
  return join(operationPaths(settings, operationId).dir, `work-${attempt}`);
}

/**
 * Copies the logs of the newest attempt to disk before anything is cleaned.
 * @returns the directory; undefined when there was nothing to save
 */
export function saveRestoreLogs(settings: Settings, record: RestoreRecord): string | undefined {
  const workDir = workDirOf(settings, record.operationId, record.attempt);
  if (record.attempt === 0 || !existsSync(workDir) || readdirSync(workDir).length === 0) {
    return undefined;
  }
  const logs = restoreLogsDir(settings);
  const target = join(logs, `restore-${record.operationId}`);
  mkdirSync(logs, { recursive: true, mode: 0o700 });
  cpSync(workDir, target, { recursive: true });
  pruneLogs(logs, target);
  return target;
}

export function restoreLogsDir(settings: Pick<NodeSettings, 'stateDir'>): string {
  return join(settings.stateDir, 'logs');
}

/** Also what a worker that died has left beyond the limit. @param keep is not removed */
export function pruneLogs(logs: string, keep?: string): void {
  if (!existsSync(logs)) {
    return;
  }
  const saved = readdirSync(logs)
    .filter((name) => name.startsWith('restore-'))
    .map((name) => join(logs, name))
    .filter((dir) => dir !== keep)
    .map((dir) => ({ dir, mtimeMs: statSync(dir).mtimeMs }))
    .sort((a, b) => b.mtimeMs - a.mtimeMs);
  for (const { dir } of saved.slice(keep === undefined ? MAX_SAVED_LOGS : MAX_SAVED_LOGS - 1)) {
    rmSync(dir, { recursive: true, force: true });
  }
}

function leaseDir(settings: Settings, checkpointId: string): string {
  return join(settings.runDir, 'leases', parseCheckpointId(checkpointId));
}

/** Idempotent. */
export function takeLease(settings: Settings, checkpointId: string, operationId: string): void {
  const dir = leaseDir(settings, checkpointId);
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  writeFileSync(join(dir, parseOperationId(operationId)), '', { mode: 0o600 });
}

/** Idempotent. */
export function releaseLease(settings: Settings, checkpointId: string, operationId: string): void {
  const dir = leaseDir(settings, checkpointId);
  rmSync(join(dir, parseOperationId(operationId)), { force: true });
  try {
    rmdirSync(dir);
  } catch {
    // ENOTEMPTY: others hold the checkpoint too. ENOENT: it was released before.
  }
}

/** Operations that restore from this checkpoint right now: while there is one, it must not be removed from the node. */
export function restoresUsing(settings: Settings, checkpointId: string): readonly string[] {
  const dir = leaseDir(settings, checkpointId);
  return existsSync(dir) ? readdirSync(dir).sort() : [];
}

/** Every restore that has a record on this node. */
export async function listRestores(settings: Settings): Promise<readonly RestoreRecord[]> {
  const ids = await listOperations(settings);
  return ids.flatMap((operationId) => readRestore(settings, operationId) ?? []);
}

/** Leases as they lie there: those of an operation without a directory were left by a crash. */
export function listLeases(settings: Settings): ReadonlyArray<{ checkpointId: string; operationId: string }> {
  const leases = join(settings.runDir, 'leases');
  return (existsSync(leases) ? readdirSync(leases) : []).flatMap((checkpointId) =>
    restoresUsing(settings, checkpointId).map((operationId) => ({ checkpointId, operationId })),
  );
}

/** The restore is over, whatever came of it. Idempotent. The lease goes last: what it protects is read until then. */
export function forgetRestore(settings: Settings, operationId: string): void {
  const checkpointId =
    readRestore(settings, operationId)?.checkpointId ?? readOwner(settings, operationId)?.checkpointId;
  removeNote(settings, operationId);
  removeOperation(settings, operationId);
  if (checkpointId !== undefined) {
    releaseLease(settings, checkpointId, operationId);
  }
}

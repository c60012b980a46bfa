/*
 * The directory of one operation on a node, `<runDir>/operations/<operationId>/`, on tmpfs:
 *   plan.json      what the runner is to do, written before the runner starts
 *   journal.jsonl  what it did
 *   runner.json    pid and start time of the runner
 *   runner.sock    HTTP/JSON calls to the runner
 *   runner.log     its log
 *   guard.json     pid and start time of the freeze guard, written when it is armed
 *   guard-report.json  what it did, written when it had to act
 *   guard.log      its log
 * and the container's lock, `<runDir>/locks/<hash>.lock` (flock) with `<hash>.token` beside it, and `<hash>.guard`, the guard
 * that was armed last.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { workloadName } from '../core/contract/process.ts';
import type { HealthCheck, NodeFacts } from '../core/contract/checkpoint.ts';
import { KybernateError } from '../core/errors.ts';
import type { HookPlan } from '../core/hooks.ts';
import { OPERATION_ID_PATTERN, parseOperationId } from '../core/ids.ts';
import type { Analysis } from './analysis-result.ts';
import type { GpuPlan } from './gpu/gpu-plan.ts';
import type { ContainerFacts } from './inspect.ts';
import type { NodeSettings } from './node-deps.ts';

export interface OperationPlan {
  readonly operationId: string;
  readonly checkpointId: string;
  /** who drives the operation: asked before a left-over is cleaned */
  readonly workflow: { readonly workflowId: string; readonly runId: string };
  readonly container: { readonly namespace: string; readonly id: string };
  readonly token: number;
  /** `criu` for a tree of processes */
  readonly engine: 'runc' | 'containerd' | 'criu';
  readonly tcp: 'keep' | 'close';
  readonly after: 'resume' | 'hold' | 'stop';
  readonly freezeBudgetMs: number;
  readonly holdBudgetMs: number;
  readonly checkpointDir: string;
  /** nothing is captured: what was saved comes back at once */
  readonly rehearsal: boolean;
  /** true: CRIU's images are all that is wanted, the caller takes care of the files of the container; default false */
  readonly imagesOnly?: boolean;
  /** disk that this operation may take, counted against what is free until it has ended */
  readonly reservedBytes: number;
  readonly nodeFacts: NodeFacts;
  readonly facts: ContainerFacts;
  readonly analysis: Analysis;
  /** empty lists without a GPU */
  readonly gpu: GpuPlan;
  /** how the workload says that it is well; absent: nobody asks */
  readonly health?: HealthCheck;
  /** programs of the node's owner that run at CRIU's events; absent: none */
  readonly hooks?: HookPlan;
  /** W3C Trace Context of the step that planned it; absent without traces */
  readonly traceparent?: string;
  readonly settings: NodeSettings;
  /** the kernel's boot id: after a reboot nothing of the capture is trusted */
  readonly bootId: string;
}

export interface OperationPaths {
  readonly dir: string;
  readonly plan: string;
  readonly journal: string;
  readonly runner: string;
  readonly socket: string;
  readonly log: string;
  readonly guard: string;
  readonly guardReport: string;
  readonly guardLog: string;
}

export function operationsDir(settings: Pick<NodeSettings, 'runDir'>): string {
  return join(settings.runDir, 'operations');
}

export function operationPaths(settings: Pick<NodeSettings, 'runDir'>, operationId: string): OperationPaths {
  const dir = join(operationsDir(settings), parseOperationId(operationId));
  return {
    dir,
    plan: join(dir, 'plan.json'),
    journal: join(dir, 'journal.jsonl'),
    runner: join(dir, 'runner.json'),
    socket: join(dir, 'runner.sock'),
    log: join(dir, 'runner.log'),
    guard: join(dir, 'guard.json'),
    guardReport: join(dir, 'guard-report.json'),
    guardLog: join(dir, 'guard.log'),
  };
}

/** Atomic on tmpfs; the directory is made. A crash leaves the old file or the new one. */
export function writeJson(file: string, value: unknown): void {
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, `${JSON.stringify(value, null, 1)}\n`, { mode: 0o600 });
  renameSync(temporary, file);
}

export function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as unknown;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}

export function readPlan(settings: Pick<NodeSettings, 'runDir'>, operationId: string): OperationPlan | undefined {
  return readJson(operationPaths(settings, operationId).plan) as OperationPlan | undefined;
}

export function writePlan(plan: OperationPlan): OperationPaths {
  const paths = operationPaths(plan.settings, plan.operationId);
  mkdirSync(paths.dir, { recursive: true, mode: 0o700 });
  writeJson(paths.plan, plan);
  return paths;
}

export function removeOperation(settings: Pick<NodeSettings, 'runDir'>, operationId: string): void {
  rmSync(operationPaths(settings, operationId).dir, { recursive: true, force: true });
}

/** Ids of all operations that have a directory on this node. */
export async function listOperations(settings: Pick<NodeSettings, 'runDir'>): Promise<string[]> {
  try {
    const names = await readdir(operationsDir(settings));
    return names.filter((name) => OPERATION_ID_PATTERN.test(name)).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  }
}

export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** Base name of the container's lock files: a hash, since ids come from people. */
export function lockBase(settings: Pick<NodeSettings, 'runDir'>, container: { namespace: string; id: string }): string {
  const hash = createHash('sha256').update(`${container.namespace}\0${container.id}`).digest('hex').slice(0, 32);
  return join(settings.runDir, 'locks', hash);
}

export function lockFile(settings: Pick<NodeSettings, 'runDir'>, container: { namespace: string; id: string }): string {
  const base = lockBase(settings, container);
  mkdirSync(join(settings.runDir, 'locks'), { recursive: true, mode: 0o700 });
  return `${base}.lock`;
}

/** Newest fencing token that this node has seen for the container; 0 when it has seen none since boot. */
export function newestToken(
  settings: Pick<NodeSettings, 'runDir'>,
  container: { namespace: string; id: string },
): number {
  const seen = readJson(`${lockBase(settings, container)}.token`) as { token?: number } | undefined;
  return seen?.token ?? 0;
}

/**
 * Refuses a token older than the newest seen, and remembers a newer one.
 * @throws LockLost
 */
export function checkToken(
  settings: Pick<NodeSettings, 'runDir'>,
  container: { namespace: string; id: string },
  token: number,
): void {
  const newest = newestToken(settings, container);
  if (token < newest) {
    throw new KybernateError(
      'LockLost',
      `${workloadName(container)}: token ${token} is older than ${newest}, ` +
        `so another operation owns it now; this one did nothing more`,
      { details: { token, newest } },
    );
  }
  if (token > newest) {
    lockFile(settings, container);
    writeJson(`${lockBase(settings, container)}.token`, { token });
  }
}

/**
 * Refuses this token from now on, and every older one: the operation that had it is over, and what is left of its steps
 * must do nothing more. A newer operation's token is not touched. Idempotent.
 */
export function retireToken(
  settings: Pick<NodeSettings, 'runDir'>,
  container: { namespace: string; id: string },
  token: number,
): void {
  if (newestToken(settings, container) <= token) {
    checkToken(settings, container, token + 1);
  }
}

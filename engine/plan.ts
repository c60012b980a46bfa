/*
 * The step before anything is touched: looks at the container, decides CRIU's options, refuses with every reason, and
 * reserves what the capture will need. The plan stays on the node, in the operation's directory.
 */
import { statSync } from 'node:fs';
import { mkdir, readdir, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { checkpointDirName } from '../core/checkpoint/file-names.ts';
import type { PlanStepInput, PlanStepResult } from '../core/contract/checkpoint.ts';
import type { ProcessTarget } from '../core/contract/process.ts';
import { KybernateError } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { Op } from '../core/op.ts';
import { traceparent } from '../core/spans.ts';
import { discardCapture } from './attach.ts';
import { analyzeContainer } from './analysis.ts';
import { probeNodeFacts } from './facts.ts';
import { analyzeTree } from './analysis-tree.ts';
import { analyzeGpu, NO_FINDINGS } from './gpu/analysis.ts';
import { planHooks } from './hooks.ts';
import { inspectContainer } from './inspect.ts';
import { inspectProcess } from './inspect-process.ts';
import { readMetadata } from './commit.ts';
import type { NodeDeps } from './node-deps.ts';
import { oneAtATime } from './one-at-a-time.ts';
import {
  bootId,
  checkToken,
  listOperations,
  operationPaths,
  readPlan,
  writePlan,
  type OperationPlan,
} from './operation.ts';
import { isEarlierRun } from './operation-owner.ts';
import { checkSource, type Source } from './preflight/source.ts';

export interface PlanRequest extends PlanStepInput {
  readonly operationId: string;
  readonly workflow: { readonly workflowId: string; readonly runId: string };
  readonly holdBudgetMs: number;
  /** instead of the checkpoint's own directory: CRIU's images alone are wanted, by somebody who asks for them there */
  readonly imagesOnlyIn?: string;
}

/** Directory of a checkpoint on this node, committed or not. */
export function checkpointDir(deps: NodeDeps, checkpointId: string): string {
  return join(deps.settings.stateDir, 'checkpoints', checkpointDirName(parseCheckpointId(checkpointId)));
}

/**
 * Idempotent: a plan that this operation has made already is returned again.
 * @throws ContainerNotFound, ContainerNotRunning, ProcessNotFound, Incompatible, GpuUnsupported, DiskFull, LockLost, InvalidInput (the
 * checkpoint id is taken)
 */
export function planCheckpoint(deps: NodeDeps, op: Op, request: PlanRequest): Promise<PlanStepResult> {
  return oneAtATime(() => planOne(deps, op, request));
}

async function planOne(deps: NodeDeps, op: Op, request: PlanRequest): Promise<PlanStepResult> {
  const { context } = request;
  checkToken(deps.settings, context.container, context.token);
  const made = readPlan(deps.settings, request.operationId);
  if (made !== undefined) {
    return resultOf(made);
  }
  await discardEarlierRuns(deps, op, request);
  const dir = request.imagesOnlyIn ?? checkpointDir(deps, context.checkpointId);
  await refuseTakenId(deps, dir, request.operationId, context.checkpointId);
  const nodeFacts = await probeNodeFacts(deps);
  const { facts, analysis, gpu } = await (request.process === undefined
    ? surveyContainer(deps, request)
    : surveyTree(deps, request, request.process));
  op.signal.throwIfAborted();
  const hooked = request.rehearsal !== true;
  const hookUse = { operation: 'checkpoint', kind: facts.tree === undefined ? 'container' : 'process' } as const;
  const hooks = hooked ? planHooks(deps.settings.hooks, hookUse) : undefined;
  await checkSource(deps, {
    facts,
    analysis,
    gpu,
    nodeFacts,
    ...(hooked ? { hooks: { ...hookUse, ...(facts.tree === undefined ? { engine: request.engine } : {}) } } : {}),
  });
  await mkdir(dirname(dir), { recursive: true, mode: 0o700 });
  // the driver moves VRAM into memory of the processes, where CRIU dumps it; a rehearsal writes nothing
  const reservedBytes = request.rehearsal === true ? 0 : analysis.estimatedBytes + gpu.plan.reservedMemoryBytes;
  await checkDisk(deps, dirname(dir), request.operationId, reservedBytes);
  const plan: OperationPlan = {
    operationId: request.operationId,
    checkpointId: context.checkpointId,
    workflow: request.workflow,
    container: context.container,
    token: context.token,
    engine: facts.tree === undefined ? request.engine : 'criu',
    tcp: request.tcp,
    after: request.after,
    freezeBudgetMs: request.freezeBudgetMs,
    holdBudgetMs: request.holdBudgetMs,
    checkpointDir: dir,
    rehearsal: request.rehearsal === true,
    imagesOnly: request.imagesOnlyIn !== undefined,
    reservedBytes,
    nodeFacts,
    facts,
    analysis: { ...analysis, warnings: [...analysis.warnings, ...gpu.warnings] },
    gpu: gpu.plan,
    ...(request.health === undefined ? {} : { health: request.health }),
    ...(hooks === undefined ? {} : { hooks }),
    ...traceOf(),
    settings: deps.settings,
    bootId: bootId(),
  };
  writePlan(plan);
  return resultOf(plan);
}

function traceOf(): Pick<OperationPlan, 'traceparent'> {
  const parent = traceparent();
  return parent === undefined ? {} : { traceparent: parent };
}

type Survey = Pick<Source, 'facts' | 'analysis' | 'gpu'>;

async function surveyContainer(deps: NodeDeps, request: PlanRequest): Promise<Survey> {
  const { engine, tcp, after, imagesOnlyIn, captureVolumes } = request;
  const facts = await inspectContainer(deps, request.context.container);
  const analysis = await analyzeContainer(deps, facts, {
    engine,
    tcp,
    after,
    imagesOnly: imagesOnlyIn !== undefined,
    ...(captureVolumes === undefined ? {} : { captureVolumes }),
  });
  const gpu = await analyzeGpu(deps, facts, analysis.gpuHolders, {
    operationId: request.operationId,
    options: request.gpu,
    freezeBudgetMs: request.freezeBudgetMs,
    rehearsal: request.rehearsal === true,
  });
  return { facts, analysis, gpu };
}

/** @throws ProcessNotFound */
async function surveyTree(deps: NodeDeps, request: PlanRequest, target: ProcessTarget): Promise<Survey> {
  const facts = inspectProcess(target, operationPaths(deps.settings, request.operationId).dir);
  const { surveys: _surveys, ...analysis } = await analyzeTree(deps, facts, request);
  return { facts, analysis, gpu: NO_FINDINGS };
}

function resultOf({ analysis, facts, gpu, reservedBytes }: OperationPlan): PlanStepResult {
  return {
    estimatedBytes: reservedBytes,
    processes: facts.processes.length,
    gpuProcesses: gpu.processes.length,
    vramBytes: gpu.vramBytes,
    criuOptions: analysis.options.map(({ option, reason }) => ({ option, reason })),
    warnings: analysis.warnings,
  };
}

/** What an earlier run has left would hold the container or the checkpoint's id until the next reconciliation. */
async function discardEarlierRuns(deps: NodeDeps, op: Op, { operationId, workflow }: PlanRequest): Promise<void> {
  for (const other of await listOperations(deps.settings)) {
    const plan = readPlan(deps.settings, other);
    if (other !== operationId && plan !== undefined && isEarlierRun(plan.workflow, workflow)) {
      await discardCapture(deps, op, plan);
    }
  }
}

/** A committed checkpoint is never overwritten; what an unfinished one left belongs to another live operation. */
async function refuseTakenId(deps: NodeDeps, dir: string, operationId: string, checkpointId: string): Promise<void> {
  const planned = (await listOperations(deps.settings)).some(
    (other) => other !== operationId && readPlan(deps.settings, other)?.checkpointDir === dir,
  );
  if (planned || (await readMetadata(dir)) !== undefined || (await readdir(dir).catch(() => [])).length > 0) {
    throw new KybernateError(
      'InvalidInput',
      `checkpointId: ${checkpointId} exists on this node already; choose another id, or remove it first`,
    );
  }
}

/** Counts what other operations have reserved and not yet written: two checkpoints must not both pass. @throws DiskFull */
export async function checkDisk(deps: NodeDeps, dir: string, operationId: string, neededBytes: number): Promise<void> {
  let reservedBytes = 0;
  const device = statSync(dir).dev;
  for (const other of await listOperations(deps.settings)) {
    const plan = other === operationId ? undefined : readPlan(deps.settings, other);
    // One that captures onto another disk takes nothing of this one.
    if (plan !== undefined && statSync(dirname(plan.checkpointDir), { throwIfNoEntry: false })?.dev === device) {
      reservedBytes += plan.reservedBytes;
    }
  }
  const disk = await statfs(dir);
  const freeBytes = disk.bavail * disk.bsize;
  const { minFreeBytes = 0 } = deps.settings;
  // A rehearsal writes nothing.
  if (neededBytes > 0 && freeBytes < neededBytes + reservedBytes + minFreeBytes) {
    throw new KybernateError(
      'DiskFull',
      `${dir} has ${freeBytes} bytes free, the checkpoint may need ${neededBytes}` +
        (reservedBytes > 0 ? ` and others have reserved ${reservedBytes}` : '') +
        (minFreeBytes > 0 ? `, with ${minFreeBytes} kept free (KYBERNATE_MIN_FREE_BYTES)` : '') +
        '; the workload was not touched',
      { details: { freeBytes, neededBytes, reservedBytes, minFreeBytes } },
    );
  }
}

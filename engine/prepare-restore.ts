/*
 * The first call of the runtime wrapper, as the agent answers it. A container that our own worker made joins its operation;
 * one that somebody else made gets an operation of its own, after its wish was allowed and checked.
 */
import { randomBytes } from 'node:crypto';
import type { PrepareRestoreRequest, PrepareRestoreResponse } from '../core/contract/restore.ts';
import { KybernateError } from '../core/errors.ts';
import { CHECKPOINT_ID_PATTERN } from '../core/ids.ts';
import type { Op } from '../core/op.ts';
import { type Finding, findingDetails, problemsIn } from '../core/preflight.ts';
import { makeMemoryRoom, planGpu, putBackRaises, reservationOf, specIn } from './gpu/restore-steps.ts';
import { readImageGpu } from './gpu/image-gpu.ts';
import type { GpuRestoreAnswer } from './gpu/restore-target.ts';
import { readCaptured } from './captured.ts';
import { installActionScript } from './criu-events.ts';
import { planHooks } from './hooks.ts';
import type { NodeDeps } from './node-deps.ts';
import { AGENT, claimOperation, whileUnderWay } from './operation-owner.ts';
import { oneAtATime } from './one-at-a-time.ts';
import { hasOwnPlaces } from './own-places.ts';
import { ownVolumePlaces, volumePlaces, volumesOf } from './pod-directories.ts';
import { refuseFor } from './preflight/refuse.ts';
import { surveyForeignRestore } from './preflight/restore.ts';
import {
  type RestoreRecord,
  forgetRestore,
  makeWorkDir,
  readRestore,
  refuseEnded,
  takeLease,
  writeRestore,
} from './restore-operation.ts';
import { type Description, type SourceAccess, resolveSource } from './restore-source.ts';

/** For a container that somebody else made: nobody told us a budget. */
const DEFAULT_RESTORE_BUDGET_MS = 300_000;

/**
 * Answers what the wrapper may restore from, and leases it until `completeRestore`.
 * @throws RestoreRefused, CheckpointNotFound, CheckpointCorrupt, Incompatible, and the errors of the store
 * Crash of the wrapper: `sweepRestores` finds the bundle gone and ends the operation.
 */
export async function prepareRestore(
  deps: NodeDeps,
  op: Op,
  access: SourceAccess,
  request: PrepareRestoreRequest,
): Promise<PrepareRestoreResponse> {
  const known = joinedRecord(deps, request) ?? (await foreignRecord(deps, op, access, request));
  const { errorType: _ofBefore, warnings: _too, ...record } = known;
  const attempt = record.attempt + 1;
  const written = writeRestore(deps.settings, {
    ...record,
    attempt,
    state: 'prepared',
    bundle: request.bundle,
    ...(request.runcRoot === undefined ? {} : { runcRoot: request.runcRoot }),
  });
  const prepared = await makeMemoryRoom(deps, op, written);
  await takeBackUnwanted(deps, op, prepared);
  const workDir = makeWorkDir(deps.settings, prepared.operationId, attempt);
  op.log.info(
    {
      operationId: prepared.operationId,
      checkpointId: prepared.checkpointId,
      container: request.container.id,
      madeBy: prepared.madeBy,
    },
    'restore prepared',
  );
  return {
    operationId: prepared.operationId,
    checkpointDir: prepared.checkpointDir,
    imageDir: prepared.imageDir,
    workDir,
    tcp: prepared.tcp,
    // In place the files are those of the checkpoint, or none: the step that starts it brings back those of before first.
    onFailure: prepared.docker?.upperDir === undefined ? prepared.onFailure : 'fail',
    hasMetadata: prepared.hasMetadata,
    restoreBudgetMs: prepared.restoreBudgetMs,
    ...(prepared.gpu === undefined ? {} : { gpu: prepared.gpu.fit }),
    ...volumesFor(deps, request, prepared),
    ...(await hooksFor(deps, prepared)),
  };
}

/** Its caller went away before it was told: nobody would say how the restore ended. That of a worker, its own step ends. */
async function takeBackUnwanted(deps: NodeDeps, op: Op, record: RestoreRecord): Promise<void> {
  if (op.signal.aborted && record.madeBy === 'others') {
    await putBackRaises(deps, op, record);
    forgetRestore(deps.settings, record.operationId);
  }
  op.signal.throwIfAborted();
}

/** By the specification of the new container: the wrapper fills what it is told here. */
function volumesFor(
  { settings }: NodeDeps,
  { pod, bundle }: PrepareRestoreRequest,
  { checkpointDir, hasMetadata }: RestoreRecord,
): Pick<PrepareRestoreResponse, 'volumes'> {
  if (!hasMetadata || (pod === undefined && !hasOwnPlaces(settings))) {
    return {};
  }
  const captured = volumesOf(readCaptured(checkpointDir).metadata, checkpointDir);
  const spec = specIn(bundle);
  return {
    volumes:
      pod === undefined ? ownVolumePlaces(captured, spec, settings) : volumePlaces(captured, spec, settings).places,
  };
}

/** The wrapper runs them: it is there when CRIU tells of an event, and ends with its container's restore. */
async function hooksFor(
  { settings }: NodeDeps,
  { checkpointId }: RestoreRecord,
): Promise<Pick<PrepareRestoreResponse, 'hooks'>> {
  const plan = planHooks(settings.hooks, { operation: 'restore', kind: 'container' });
  if (plan === undefined) {
    return {};
  }
  const actionScript = await installActionScript(settings.stateDir);
  return {
    hooks: { plan, node: settings.node, actionScript, ...(checkpointId === undefined ? {} : { checkpointId }) },
  };
}

/** An operation that is over is joined by nobody: its container was started again, long after. */
function joinedRecord(deps: NodeDeps, request: PrepareRestoreRequest): RestoreRecord | undefined {
  if (request.operationId === undefined) {
    return undefined;
  }
  const record = readRestore(deps.settings, request.operationId);
  if (record === undefined || record.state === 'restored' || record.state === 'cold-started') {
    return undefined;
  }
  const { namespace } = record.container;
  const id = record.docker?.id ?? record.container.id;
  refuseEnded(deps.settings, record);
  if (id !== request.container.id || (request.container.namespace ?? namespace) !== namespace) {
    throw new KybernateError(
      'RestoreRefused',
      `operation ${record.operationId} restores ${namespace}/${id}, not ${request.container.id}`,
    );
  }
  return record;
}

/** Its room on the GPUs is taken when this returns. */
async function foreignRecord(
  deps: NodeDeps,
  op: Op,
  access: SourceAccess,
  request: PrepareRestoreRequest,
): Promise<RestoreRecord> {
  const until = request.waitMs === undefined ? {} : { until: performance.now() + request.waitMs };
  const operationId = randomBytes(16).toString('hex');
  return leased(deps, request.restoreFrom, operationId, async () => {
    const look = async (found: Description): Promise<void> => {
      await checkTarget(deps, op, { request, operationId, found });
    };
    // May fetch from the store, which nobody else has to wait for.
    const source = await whileWanted(op.signal, resolveSource(deps.settings, access, request, { ...until, look }));
    const found = source.metadata === undefined ? undefined : readCaptured(source.checkpointDir);
    return oneAtATime(async () => {
      const gpu = await checkTarget(deps, op, { request, operationId, found, imageDir: source.imageDir });
      op.signal.throwIfAborted();
      return writeRestore(deps.settings, {
        operationId,
        container: { namespace: request.container.namespace ?? '', id: request.container.id },
        madeBy: 'others',
        ...(source.checkpointId === undefined ? {} : { checkpointId: source.checkpointId }),
        checkpointDir: source.checkpointDir,
        imageDir: source.imageDir,
        hasMetadata: source.metadata !== undefined,
        snapshotter: '',
        tcp: request.tcp,
        onFailure: request.onFailure === 'wait' ? 'fail' : request.onFailure,
        restoreBudgetMs: DEFAULT_RESTORE_BUDGET_MS,
        stdio: { kind: 'null' },
        terminal: false,
        bundle: request.bundle,
        attempt: 0,
        state: 'registered',
        ...reservationOf(gpu),
      });
    });
  });
}

/** What is being brought goes on without its caller: the next one joins it. */
function whileWanted<Result>(signal: AbortSignal, work: Promise<Result>): Promise<Result> {
  return new Promise((resolve, reject) => {
    const gone = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', gone, { once: true });
    if (signal.aborted) {
      gone();
    }
    void work.then(resolve, reject).finally(() => signal.removeEventListener('abort', gone));
  });
}

/** A checkpoint must not be removed while it is being looked at: the lease comes first, and goes if nothing comes of it. */
async function leased<Result>(
  deps: NodeDeps,
  restoreFrom: string,
  operationId: string,
  act: () => Promise<Result>,
): Promise<Result> {
  const isId = CHECKPOINT_ID_PATTERN.test(restoreFrom) && !restoreFrom.includes('..');
  const workflow = { workflowId: AGENT, runId: operationId };
  return whileUnderWay(operationId, async () => {
    claimOperation(deps.settings, operationId, { workflow, ...(isId ? { checkpointId: restoreFrom } : {}) });
    if (isId) {
      takeLease(deps.settings, restoreFrom, operationId);
    }
    try {
      return await act();
    } catch (error) {
      forgetRestore(deps.settings, operationId);
      throw error;
    }
  });
}

interface Asked {
  readonly request: PrepareRestoreRequest;
  readonly operationId: string;
  /** absent for a bare image directory */
  readonly found: Description | undefined;
  /** absent while the images are not here */
  readonly imageDir?: string;
}

async function checkTarget(
  deps: NodeDeps,
  op: Op,
  { request, operationId, found, imageDir }: Asked,
): Promise<GpuRestoreAnswer['plan']> {
  const part = found?.metadata ?? (imageDir === undefined ? undefined : readImageGpu(imageDir));
  if (part === undefined) {
    return undefined;
  }
  const { bundle, container, pod, tcp, restoreFrom } = request;
  const gpu = await planGpu(deps, part, { operationId, map: [], bundle });
  const fit = gpu.plan === undefined ? {} : { fit: gpu.plan.fit };
  const target =
    found === undefined || pod === undefined
      ? undefined
      : { id: container.id, spec: specIn(bundle), captured: found.spec, imageDir: imageDir ?? restoreFrom, ...fit };
  const checked = found === undefined ? [] : await surveyForeignRestore(deps, found.metadata, tcp, target);
  op.signal.throwIfAborted();
  refuseTarget(deps, [...checked, ...gpu.findings], restoreFrom);
  return gpu.plan;
}

/** @throws GpuOutOfMemory room on the GPUs is all that is missing, which whoever waits may get; Incompatible */
function refuseTarget(deps: NodeDeps, findings: readonly Finding[], restoreFrom: string): void {
  const problems = problemsIn(findings);
  if (problems.length === 0 || problems.some(({ code }) => code !== 'gpu-memory')) {
    return refuseFor(problems, restoreFrom, deps);
  }
  const why = problems.map(({ message }) => message).join('; ');
  throw new KybernateError('GpuOutOfMemory', `${restoreFrom} cannot be restored on ${deps.settings.node} now: ${why}`, {
    details: findingDetails(problems),
  });
}

/*
 * The two calls of the runtime wrapper, as the agent answers them. A container that our own worker made joins its
 * operation; one that somebody else made gets an operation of its own, after its wish was allowed and checked.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import type {
  CompleteRestoreRequest,
  CompleteRestoreResponse,
  PrepareRestoreRequest,
  PrepareRestoreResponse,
} from '../core/contract/restore.ts';
import { KybernateError } from '../core/errors.ts';
import { CHECKPOINT_ID_PATTERN } from '../core/ids.ts';
import type { Op } from '../core/op.ts';
import type { NodeDeps } from './node-deps.ts';
import { checkRestoreTarget } from './preflight.ts';
import { clearDeadRestore } from './restore-leftovers.ts';
import {
  type RestoreRecord,
  forgetRestore,
  listRestores,
  makeWorkDir,
  readRestore,
  releaseLease,
  requireRestore,
  saveRestoreLogs,
  takeLease,
  writeRestore,
} from './restore-operation.ts';
import { type RestoreSource, type SourceAccess, resolveSource } from './restore-source.ts';

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
  const record = joinedRecord(deps, request) ?? (await foreignRecord(deps, op, access, request));
  const attempt = record.attempt + 1;
  const prepared = writeRestore(deps.settings, {
    ...record,
    attempt,
    state: 'prepared',
    bundle: request.bundle,
    ...(request.runcRoot === undefined ? {} : { runcRoot: request.runcRoot }),
  });
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
    onFailure: prepared.onFailure,
    hasMetadata: prepared.hasMetadata,
    restoreBudgetMs: prepared.restoreBudgetMs,
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
  const { namespace, id } = record.container;
  if (id !== request.container.id || (request.container.namespace ?? namespace) !== namespace) {
    throw new KybernateError(
      'RestoreRefused',
      `operation ${record.operationId} restores ${namespace}/${id}, not ${request.container.id}`,
    );
  }
  return record;
}

async function foreignRecord(
  deps: NodeDeps,
  op: Op,
  access: SourceAccess,
  request: PrepareRestoreRequest,
): Promise<RestoreRecord> {
  const operationId = randomBytes(16).toString('hex');
  const source = await leased(deps, request.restoreFrom, operationId, async () => {
    const found = await resolveSource(deps.settings, access, request);
    await checkTarget(deps, op, request.restoreFrom, found);
    return found;
  });
  return {
    operationId,
    container: { namespace: request.container.namespace ?? '', id: request.container.id },
    madeBy: 'others',
    ...(source.checkpointId === undefined ? {} : { checkpointId: source.checkpointId }),
    checkpointDir: source.checkpointDir,
    imageDir: source.imageDir,
    hasMetadata: source.metadata !== undefined,
    snapshotter: '',
    tcp: request.tcp,
    onFailure: request.onFailure,
    restoreBudgetMs: DEFAULT_RESTORE_BUDGET_MS,
    stdio: { kind: 'null' },
    terminal: false,
    attempt: 0,
    state: 'registered',
  };
}

/** A checkpoint must not be removed while it is being looked at: the lease comes first, and goes if nothing comes of it. */
async function leased<Result>(
  deps: NodeDeps,
  restoreFrom: string,
  operationId: string,
  act: () => Promise<Result>,
): Promise<Result> {
  const isId = CHECKPOINT_ID_PATTERN.test(restoreFrom) && !restoreFrom.includes('..');
  if (isId) {
    takeLease(deps.settings, restoreFrom, operationId);
  }
  try {
    return await act();
  } catch (error) {
    if (isId) {
      releaseLease(deps.settings, restoreFrom, operationId);
    }
    throw error;
  }
}

async function checkTarget(deps: NodeDeps, op: Op, restoreFrom: string, source: RestoreSource): Promise<void> {
  const reasons = source.metadata === undefined ? [] : await checkRestoreTarget(deps, source.metadata, { op });
  if (reasons.length > 0) {
    throw new KybernateError(
      'Incompatible',
      `${restoreFrom} cannot be restored on ${deps.settings.node}: ${reasons.join('; ')}`,
      { details: { reasons } },
    );
  }
}

/**
 * The wrapper's last word. Logs of a failure are saved before anything is cleaned; the lease ends, since the memory has
 * been read; the worker's own step finds the outcome in the record.
 * @returns `proceed: false` when the container must be ended again
 */
export function completeRestore(deps: NodeDeps, op: Op, request: CompleteRestoreRequest): CompleteRestoreResponse {
  const record = requireRestore(deps.settings, request.operationId);
  const failed = request.outcome !== 'restored';
  const savedLogs = failed ? saveRestoreLogs(deps.settings, record) : undefined;
  const fields = {
    operationId: record.operationId,
    checkpointId: record.checkpointId,
    container: record.container.id,
    restoreMs: request.restoreMs,
    parts: request.parts,
    ...(failed ? { errors: request.errors, savedLogs } : {}),
  };
  if (failed) {
    op.log.error(fields, `restore ${request.outcome}`);
  } else {
    op.log.info(fields, 'restored');
  }
  if (record.madeBy === 'others') {
    forgetRestore(deps.settings, record.operationId);
    return { proceed: true };
  }
  writeRestore(deps.settings, {
    ...record,
    state: request.outcome,
    restoreMs: request.restoreMs,
    errors: request.errors,
    ...(savedLogs === undefined ? {} : { savedLogs }),
  });
  if (record.checkpointId !== undefined && request.outcome !== 'failed') {
    releaseLease(deps.settings, record.checkpointId, record.operationId);
  }
  return { proceed: true };
}

/**
 * Ends the operations whose wrapper died half-way: containerd removes the bundle of a container that could not be made.
 * Operations of the worker are left to their workflow.
 * @returns ids that were ended
 */
export async function sweepRestores(deps: NodeDeps, op: Op): Promise<readonly string[]> {
  const dead = (await listRestores(deps.settings)).filter(
    (record) => record.madeBy === 'others' && record.bundle !== undefined && !existsSync(record.bundle),
  );
  for (const record of dead) {
    const savedLogs = saveRestoreLogs(deps.settings, record);
    if (record.runcRoot !== undefined) {
      await clearDeadRestore(deps.run, record.runcRoot, record.container.id);
    }
    forgetRestore(deps.settings, record.operationId);
    op.log.warn(
      { operationId: record.operationId, container: record.container.id, savedLogs },
      'abandoned restore ended',
    );
  }
  return dead.map((record) => record.operationId);
}

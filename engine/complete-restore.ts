/* The wrapper's last word, as the agent answers it: GPU state comes back, and how the restore ended is kept. */
import type { CompleteRestoreRequest, CompleteRestoreResponse, GpuRestoreFacts } from '../core/contract/restore.ts';
import { KybernateError, isKybernateError, messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { completeGpu, putBackRaises } from './gpu/restore-steps.ts';
import type { NodeDeps } from './node-deps.ts';
import {
  type RestoreRecord,
  forgetRestore,
  readRestore,
  refuseEnded,
  releaseLease,
  saveRestoreLogs,
  writeRestore,
} from './restore-operation.ts';
import { settleRestored } from './restore-end.ts';

/**
 * The wrapper's last word. With GPU processes it is asked for before their devices are back, and a `proceed: false` is
 * followed by another word of the wrapper, when it has ended the container.
 * @returns `proceed: false` when the container must be ended again
 * @throws LockLost the operation was ended meanwhile, with the same meaning
 */
export async function completeRestore(
  deps: NodeDeps,
  op: Op,
  request: CompleteRestoreRequest,
): Promise<CompleteRestoreResponse> {
  const record = readRestore(deps.settings, request.operationId);
  if (record === undefined) {
    throw new KybernateError(
      'LockLost',
      `no restore ${request.operationId} is under way on this node: it was ended, or the node was rebooted since`,
    );
  }
  if (request.outcome === 'restored') {
    refuseEnded(deps.settings, record);
  }
  if (record.gpu === undefined || request.outcome !== 'restored') {
    return settle(deps, op, record, request);
  }
  let gpuFacts: GpuRestoreFacts;
  try {
    gpuFacts = await completeGpu(deps, record, request);
  } catch (error) {
    return gpuFailed(deps, op, record, error);
  }
  try {
    return await settle(deps, op, { ...record, gpuFacts }, request);
  } catch (error) {
    // The workload runs by now: what cannot be written down must not end it.
    op.log.error(
      { operationId: record.operationId, container: record.container.id, error: messageOf(error) },
      'the outcome of a restore could not be kept',
    );
    return { proceed: true };
  }
}

function gpuFailed(deps: NodeDeps, op: Op, record: RestoreRecord, error: unknown): CompleteRestoreResponse {
  const errorType = isKybernateError(error) ? error.type : 'Internal';
  const reason = messageOf(error);
  const again = record.madeBy === 'worker' && errorType === 'GpuOutOfMemory' && record.triedAgain !== true;
  op.log.error(
    { operationId: record.operationId, container: record.container.id, errorType, reason, again },
    'GPU state was not restored',
  );
  writeRestore(deps.settings, { ...record, state: 'failed', errors: [reason], errorType });
  return { proceed: false, reason, errorType, ...(again ? { again } : {}) };
}

/**
 * Logs of a failure are saved before anything is cleaned; the lease ends, since the memory has been read; the worker's
 * own step finds the outcome in the record.
 */
async function settle(
  deps: NodeDeps,
  op: Op,
  found: RestoreRecord,
  request: CompleteRestoreRequest,
): Promise<CompleteRestoreResponse> {
  const failed = request.outcome !== 'restored';
  await putBackRaises(deps, op, found);
  const record: RestoreRecord = { ...found, memoryRaises: [] };
  const savedLogs = failed ? saveRestoreLogs(deps.settings, record) : undefined;
  const { gpuFacts } = record;
  const restoreMs = request.restoreMs + (gpuFacts?.restoreMs ?? 0);
  const fields = {
    operationId: record.operationId,
    checkpointId: record.checkpointId,
    container: record.container.id,
    restoreMs,
    parts: { ...request.parts, ...gpuFacts?.parts },
    ...(request.warnings.length > 0 ? { warnings: request.warnings } : {}),
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
    restoreMs,
    errors: request.errors,
    ...(request.errorType === undefined ? {} : { errorType: request.errorType }),
    ...(request.warnings.length > 0 ? { warnings: request.warnings } : {}),
    ...(savedLogs === undefined ? {} : { savedLogs }),
  });
  if (request.outcome !== 'failed') {
    settleRestored(deps, op, record);
  }
  if (record.checkpointId !== undefined && request.outcome !== 'failed') {
    releaseLease(deps.settings, record.checkpointId, record.operationId);
  }
  return { proceed: true };
}

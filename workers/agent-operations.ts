/*
 * Operations of this node as the agent's callers see them: workflows that the agent starts or joins by the typed client,
 * and checkpoints of the node and of its store. Nothing is kept here: a restarted agent answers as before.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isGrpcServiceError, WorkflowNotFoundError } from '@temporalio/client';
import type { KybernateClient, OperationHandle, OperationSummary } from '../client/index.ts';
import type { CheckpointRequest } from '../core/contract/checkpoint.ts';
import {
  listCheckpointsCall,
  operationCall,
  operationRef,
  type AgentCheckpoint,
  type AgentCheckpoints,
  type AgentOperation,
  type OperationCall,
  type OperationStatus,
} from '../core/contract/agent-operations.ts';
import { parseInput } from '../core/contract/parse.ts';
import type { RestoreRequest } from '../core/contract/restore.ts';
import { assertNever, isKybernateError, KybernateError, messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from '../store/backend/backend.ts';
import type { LocalCatalog } from '../store/local-catalog.ts';
import { listStored } from '../store/registry.ts';

export interface OperationsDeps {
  readonly node: string;
  readonly client: Pick<KybernateClient, 'checkpoint' | 'restore' | 'describe' | 'find'>;
  readonly catalog: Pick<LocalCatalog, 'list'>;
  /** the store, through the sidecar of this node; throws StorageUnavailable while none answers */
  readonly backend: () => Promise<Backend>;
}

export interface AgentOperations {
  /** @throws InvalidInput before anything is started; NodeUnavailable Temporal does not answer */
  checkpoint(call: unknown): Promise<AgentOperation>;
  /** @throws as `checkpoint` */
  restore(call: unknown): Promise<AgentOperation>;
  /** @throws InvalidInput there is no such operation; NodeUnavailable */
  status(ref: unknown): Promise<AgentOperation>;
  /** The state now and after every change, the last one with the end. @throws as `status` */
  follow(ref: unknown, signal: AbortSignal): AsyncGenerator<AgentOperation>;
  checkpoints(call: unknown): Promise<AgentCheckpoints>;
}

const POLL_MS = 1000;
/** gRPC: DEADLINE_EXCEEDED and UNAVAILABLE, of the server or of the link to it. */
const UNREACHABLE: ReadonlySet<number | undefined> = new Set([4, 14]);
/** gRPC: ids that Temporal knows to be none, texts that are too long for it. */
const INVALID_ARGUMENT = 3;

/** Temporal's words, in the visibility store and in descriptions. */
const STATUSES: Readonly<Record<string, OperationStatus>> = {
  RUNNING: 'running',
  COMPLETED: 'done',
  FAILED: 'failed',
  CANCELLED: 'cancelled',
  TERMINATED: 'terminated',
  TIMED_OUT: 'timed-out',
};

/** @param op aborted when the agent ends: calls that wait are answered with what is known */
export function agentOperations(deps: OperationsDeps, op: Op): AgentOperations {
  const { client } = deps;
  const status = async (ref: unknown): Promise<AgentOperation> => {
    const { workflowId, runId } = parseInput(operationRef, ref);
    return asked(async () => stateOf(client, await client.describe(workflowId, runId)));
  };
  return {
    checkpoint: (call) =>
      started(deps, op, call, (request, options) => client.checkpoint(request as CheckpointRequest, options)),
    restore: (call) =>
      started(deps, op, call, (request, options) => client.restore(request as RestoreRequest, options)),
    status,
    async *follow(ref, signal) {
      const stop = AbortSignal.any([signal, op.signal]);
      let last = '';
      for (;;) {
        const state = await status(ref);
        const text = JSON.stringify(state);
        if (text !== last) {
          last = text;
          yield state;
        }
        if (state.status !== 'running' || stop.aborted) {
          return;
        }
        await sleep(POLL_MS, undefined, { signal: stop }).catch(() => undefined);
        if (stop.aborted) {
          return;
        }
      }
    },
    checkpoints: (call) => listCheckpoints(deps, op, call),
  };
}

type Start = (request: object, options: { readonly generation?: string }) => Promise<OperationHandle<unknown>>;

async function started(deps: OperationsDeps, op: Op, call: unknown, start: Start): Promise<AgentOperation> {
  const { idempotencyKey, waitMs, node, ...request }: OperationCall = parseInput(operationCall, call);
  if (node !== undefined && node !== deps.node) {
    throw new KybernateError('InvalidInput', `node: this agent is of ${deps.node}; ask that of ${node}, or the CLI`);
  }
  return asked(async () => {
    const handle = await start(
      { ...request, node: deps.node },
      idempotencyKey === undefined ? {} : { generation: idempotencyKey },
    );
    if (waitMs > 0) {
      await endOrTimeout(handle, waitMs, op.signal);
    }
    const state = await stateOf(deps.client, await deps.client.describe(handle.workflowId, handle.runId));
    // Said by the workflow itself, which has perhaps not begun.
    return { node: deps.node, ...state };
  });
}

/** Whatever it ends with is told by its state. */
async function endOrTimeout(handle: OperationHandle<unknown>, ms: number, signal: AbortSignal): Promise<void> {
  const over = new AbortController();
  const ended = handle.result().then(
    () => undefined,
    () => undefined,
  );
  const late = sleep(ms, undefined, { signal: AbortSignal.any([signal, over.signal]) }).catch(() => undefined);
  await Promise.race([ended, late]);
  over.abort();
}

async function stateOf(client: OperationsDeps['client'], summary: OperationSummary): Promise<AgentOperation> {
  const { workflowId, runId, type, startedAt, endedAt, node, container, checkpointId, phase } = summary;
  const status = STATUSES[summary.status] ?? 'running';
  const state: AgentOperation = {
    workflowId,
    runId,
    kind: type,
    status,
    ...(node === undefined ? {} : { node }),
    ...(container === undefined ? {} : { container }),
    ...(checkpointId === undefined ? {} : { checkpointId }),
    ...(phase === undefined ? {} : { phase }),
    startedAt,
    ...(endedAt === undefined ? {} : { endedAt }),
  };
  const handle = await client.find(workflowId, runId);
  switch (status) {
    case 'running':
      return { ...state, ...(await progressOf(handle)) };
    case 'done':
      return { ...state, result: await handle.result() };
    case 'failed':
      return { ...state, error: await errorOf(handle) };
    case 'cancelled':
    case 'terminated':
    case 'timed-out':
      return state;
    default:
      return assertNever(status);
  }
}

async function progressOf(handle: Pick<OperationHandle<unknown>, 'progress'>): Promise<Partial<AgentOperation>> {
  const progress = await handle.progress();
  if (progress === undefined) {
    return {};
  }
  const { phase, checkpointId, bytesDone, bytesTotal } = progress;
  return {
    phase,
    ...(checkpointId === undefined ? {} : { checkpointId }),
    ...(bytesDone === undefined ? {} : { bytesDone }),
    ...(bytesTotal === undefined ? {} : { bytesTotal }),
  };
}

async function errorOf(handle: Pick<OperationHandle<unknown>, 'result'>): Promise<{ type: string; message: string }> {
  try {
    await handle.result();
  } catch (error) {
    return { type: isKybernateError(error) ? error.type : 'Internal', message: messageOf(error) };
  }
  return { type: 'Internal', message: 'it failed, and its result says that it did not' };
}

/** Temporal's own errors in our words. */
async function asked<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) {
      throw new KybernateError(
        'InvalidInput',
        `workflowId: there is no such operation, or Temporal has forgotten it: ${messageOf(error)}`,
        { cause: error },
      );
    }
    const code = grpcCodeOf(error);
    if (code === INVALID_ARGUMENT) {
      const why = error instanceof Error && error.cause instanceof Error ? error.cause.message : messageOf(error);
      throw new KybernateError('InvalidInput', `the Temporal server refuses it: ${why}`, { cause: error });
    }
    if (isKybernateError(error) || !UNREACHABLE.has(code)) {
      throw error;
    }
    throw new KybernateError(
      'NodeUnavailable',
      `the Temporal server does not answer (${messageOf(error)}); what was started goes on, and the same call with the ` +
        'same idempotency key joins it',
      { cause: error },
    );
  }
}

function grpcCodeOf(error: unknown): number | undefined {
  const cause = error instanceof Error && isGrpcServiceError(error.cause) ? error.cause : error;
  return isGrpcServiceError(cause) ? cause.code : undefined;
}

async function listCheckpoints(deps: OperationsDeps, op: Op, call: unknown): Promise<AgentCheckpoints> {
  const { limit, localOnly } = parseInput(listCheckpointsCall, call);
  const local = await deps.catalog.list();
  const problems = local.damaged.map(({ checkpointId, reason }) => `${checkpointId} on this node: ${reason}`);
  const seen = new Map<string, AgentCheckpoint>();
  for (const { checkpointId, metadata, path, uploadPending } of local.checkpoints) {
    seen.set(checkpointId, { ...listed(checkpointId, metadata), path, uploadPending });
  }
  for (const { checkpointId, summary, remote, verifiedAt } of localOnly ? [] : await stored(deps, op, problems)) {
    const here = seen.get(checkpointId) ?? { ...listed(checkpointId, summary), uploadPending: false };
    seen.set(checkpointId, { ...here, remote, ...(verifiedAt === undefined ? {} : { verifiedAt }) });
  }
  const all = [...seen.values()].sort(
    (left, right) =>
      right.createdAt.localeCompare(left.createdAt) || left.checkpointId.localeCompare(right.checkpointId),
  );
  return { checkpoints: all.slice(0, limit), more: Math.max(0, all.length - limit), problems };
}

type Listed = Awaited<ReturnType<typeof listStored>>['checkpoints'];

/** A node without a store, or whose store is away, still tells what it has. */
async function stored({ backend }: OperationsDeps, op: Op, problems: string[]): Promise<Listed> {
  try {
    const { checkpoints, damaged } = await listStored(await backend(), op);
    problems.push(...damaged.map(({ checkpointId, reason }) => `${checkpointId} in the store: ${reason}`));
    return checkpoints;
  } catch (error) {
    if (!isKybernateError(error) || !error.type.startsWith('Storage')) {
      throw error;
    }
    problems.push(`the store is not shown: ${error.message}`);
    return [];
  }
}

function listed(
  checkpointId: string,
  { createdAt, container, node, sizes, labels }: Listed[number]['summary'],
): Omit<AgentCheckpoint, 'uploadPending'> {
  const { id, namespace, pod } = container;
  return {
    checkpointId,
    createdAt,
    container: { id, namespace },
    ...(pod === undefined ? {} : { pod: { namespace: pod.namespace, name: pod.name, container: pod.container } }),
    node: node.name,
    totalBytes: sizes.totalBytes,
    labels,
  };
}

/* Client of the agent on this node: HTTP/JSON over its unix socket, by node:http alone. */
import { request } from 'node:http';
import type { CheckpointContainerCall, CheckpointContainerResponse } from '../../core/contract/agent-checkpoint.ts';
import type {
  CompleteRestoreCall,
  CompleteRestoreResponse,
  PrepareRestoreCall,
  PrepareRestoreResponse,
} from '../../core/contract/restore.ts';
import { KybernateError, isErrorType } from '../../core/errors.ts';

export interface Agent {
  /** May take as long as a download. */
  prepareRestore(call: PrepareRestoreCall): Promise<PrepareRestoreResponse>;
  /** @param timeoutMs GPU memory that comes back takes its time, and nothing is heard meanwhile */
  completeRestore(call: CompleteRestoreCall, timeoutMs: number, traceparent?: string): Promise<CompleteRestoreResponse>;
}

export interface CheckpointAgent {
  /** Takes as long as the dump; a caller that goes away has it undone. */
  checkpointContainer(call: CheckpointContainerCall): Promise<CheckpointContainerResponse>;
}

/** A checkpoint may have to come from the store first. */
const PREPARE_TIMEOUT_MS = 3_600_000;
/** Beyond the time that the caller gives the agent: the agent keeps to it by itself. */
const ANSWER_MS = 15_000;
const CHECKPOINT_TIMEOUT_MS = 3_600_000;

/**
 * @param socketPath the agent's socket; looked at when a call is made
 * Every call throws NodeUnavailable when nobody answers there, or the error that the agent reports.
 */
export function connectAgent(socketPath: string): Agent & CheckpointAgent {
  return {
    prepareRestore: async (call) => {
      const timeoutMs = call.waitMs === undefined ? PREPARE_TIMEOUT_MS : call.waitMs + ANSWER_MS;
      return (await post(socketPath, '/v1/prepare-restore', call, timeoutMs)) as PrepareRestoreResponse;
    },
    completeRestore: async (call, timeoutMs, traceparent) =>
      (await post(socketPath, '/v1/complete-restore', call, timeoutMs, traceparent)) as CompleteRestoreResponse,
    checkpointContainer: async (call) =>
      (await post(socketPath, '/v1/checkpoint-container', call, CHECKPOINT_TIMEOUT_MS)) as CheckpointContainerResponse,
  };
}

async function post(
  socketPath: string,
  path: string,
  body: unknown,
  timeoutMs: number,
  traceparent?: string,
): Promise<unknown> {
  const trace = traceparent === undefined ? {} : { traceparent };
  const { status, text } = await exchange(socketPath, path, JSON.stringify(body), { timeoutMs, trace });
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch (error) {
    throw new KybernateError('Internal', `the agent at ${socketPath} answered ${path} with ${status} and no JSON`, {
      cause: error,
    });
  }
  if (status === 200) {
    return answer;
  }
  const { type, message, details } = (answer as { error?: Record<string, unknown> }).error ?? {};
  throw new KybernateError(
    isErrorType(type) ? type : 'Internal',
    typeof message === 'string' ? message : `the agent at ${socketPath} answered ${path} with ${status}`,
    { details: typeof details === 'object' && details !== null ? (details as Record<string, unknown>) : {} },
  );
}

function exchange(
  socketPath: string,
  path: string,
  body: string,
  { timeoutMs, trace }: { readonly timeoutMs: number; readonly trace: Readonly<Record<string, string>> },
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const unavailable = (why: string, cause?: unknown): void =>
      reject(
        new KybernateError('NodeUnavailable', `the Kybernate agent at ${socketPath} does not answer (${why})`, {
          cause,
        }),
      );
    const call = request(
      {
        socketPath,
        path,
        method: 'POST',
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body), ...trace },
        timeout: timeoutMs,
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', (error) => unavailable(error.message, error));
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') });
        });
      },
    );
    call.on('timeout', () => call.destroy(new Error(`nothing for ${timeoutMs} ms`)));
    call.on('error', (error: NodeJS.ErrnoException) => unavailable(error.code ?? error.message, error));
    call.end(body);
  });
}

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
  /**
   * May take as long as a download.
   * @param signal ends the call; the agent takes back what it has prepared, what is being fetched goes on
   */
  prepareRestore(call: PrepareRestoreCall, signal?: AbortSignal): Promise<PrepareRestoreResponse>;
  /** @param timeoutMs GPU memory that comes back takes its time, and nothing is heard meanwhile */
  completeRestore(call: CompleteRestoreCall, timeoutMs: number, traceparent?: string): Promise<CompleteRestoreResponse>;
}

export interface CheckpointAgent {
  /**
   * Takes as long as the dump.
   * @param signal ends the call, and the agent undoes the checkpoint
   */
  checkpointContainer(call: CheckpointContainerCall, signal?: AbortSignal): Promise<CheckpointContainerResponse>;
}

/** A checkpoint may have to come from the store first. */
const PREPARE_TIMEOUT_MS = 3_600_000;
/** Beyond the time that the caller gives the agent: the agent keeps to it by itself. */
const ANSWER_MS = 15_000;
const CHECKPOINT_TIMEOUT_MS = 3_600_000;

/**
 * @param socketPath the agent's socket; looked at when a call is made
 * Every call throws NodeUnavailable when nobody answers there, or the error that the agent reports, or the
 * reason of its signal.
 */
export function connectAgent(socketPath: string): Agent & CheckpointAgent {
  return {
    prepareRestore: async (call, signal) => {
      const timeoutMs = call.waitMs === undefined ? PREPARE_TIMEOUT_MS : call.waitMs + ANSWER_MS;
      const options = { timeoutMs, ...(signal === undefined ? {} : { signal }) };
      return (await post(socketPath, '/v1/prepare-restore', call, options)) as PrepareRestoreResponse;
    },
    completeRestore: async (call, timeoutMs, traceparent) => {
      const options = { timeoutMs, ...(traceparent === undefined ? {} : { traceparent }) };
      return (await post(socketPath, '/v1/complete-restore', call, options)) as CompleteRestoreResponse;
    },
    checkpointContainer: async (call, signal) => {
      const options = { timeoutMs: CHECKPOINT_TIMEOUT_MS, ...(signal === undefined ? {} : { signal }) };
      return (await post(socketPath, '/v1/checkpoint-container', call, options)) as CheckpointContainerResponse;
    },
  };
}

interface CallOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  readonly traceparent?: string;
}

async function post(socketPath: string, path: string, body: unknown, options: CallOptions): Promise<unknown> {
  const { status, text } = await exchange(socketPath, path, JSON.stringify(body), options);
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
  { timeoutMs, signal, traceparent }: CallOptions,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const unavailable = (why: string, cause?: unknown): void =>
      reject(
        signal?.aborted === true
          ? signal.reason
          : new KybernateError('NodeUnavailable', `the Kybernate agent at ${socketPath} does not answer (${why})`, {
              cause,
            }),
      );
    const call = request(
      {
        socketPath,
        path,
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          ...(traceparent === undefined ? {} : { traceparent }),
        },
        timeout: timeoutMs,
        ...(signal === undefined ? {} : { signal }),
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

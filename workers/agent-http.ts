/*
 * What the agent answers by JSON over HTTP.
 *   GET  /v1/health
 *   POST /v1/checkpoint, /v1/restore         202 the operation while it runs, 200 when it has ended: proto/agent.proto
 *   GET  /v1/operations/<workflow id>        how it stands; the id percent-encoded; ?runId=
 *   GET  /v1/operations/<workflow id>/watch  ndjson: how it stands at every change, the end last
 *   GET  /v1/checkpoints                     of the node and its store; ?limit=&localOnly=true
 *   POST /v1/prepare-restore                 core/contract/restore.ts
 *   POST /v1/complete-restore
 *   POST /v1/checkpoint-container            core/contract/agent-checkpoint.ts
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { AgentOperation } from '../core/contract/agent-operations.ts';
import { KybernateError } from '../core/errors.ts';
import type { PrepareRestoreResponse } from '../core/contract/restore.ts';
import type { Logger } from '../core/op.ts';
import { withinSpan } from '../core/spans.ts';
import type { AgentGrpcCalls } from './agent-grpc.ts';
import { readJsonBody, sendJson, sendLines } from './json-http.ts';
import { sendError } from './wire-errors.ts';

export interface AgentHttpCalls extends AgentGrpcCalls {
  health(): object;
  /** @param gone aborted when the caller goes away: what was prepared for it is taken back */
  prepareRestore(call: unknown, trace?: string, gone?: AbortSignal): Promise<PrepareRestoreResponse>;
  /** @param gone aborted when the caller goes away: what was done is undone */
  checkpointContainer(call: unknown, gone: AbortSignal): Promise<object>;
}

export function agentRequests(calls: AgentHttpCalls, log: Logger): RequestListener {
  return (request, response) => {
    void withinSpan(request.headers['traceparent']?.toString(), async () => {
      try {
        await answer(calls, request, response);
      } catch (error) {
        sendError(log, request, response, error);
      }
    });
  };
}

async function answer(calls: AgentHttpCalls, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname, searchParams } = urlOf(request);
  const call = `${request.method ?? ''} ${pathname}`;
  const trace = request.headers['traceparent']?.toString();
  switch (call) {
    case 'GET /v1/health':
      return sendJson(response, 200, calls.health());
    case 'GET /v1/checkpoints':
      return sendJson(response, 200, await calls.checkpoints(listCallOf(searchParams)));
    case 'POST /v1/checkpoint':
      return sendOperation(response, await calls.checkpoint(await readJsonBody(request)));
    case 'POST /v1/restore':
      return sendOperation(response, await calls.restore(await readJsonBody(request)));
    case 'POST /v1/prepare-restore':
      return sendJson(response, 200, await calls.prepareRestore(await readJsonBody(request), trace, goneOf(response)));
    case 'POST /v1/complete-restore':
      return sendJson(response, 200, await calls.completeRestore(await readJsonBody(request), trace));
    case 'POST /v1/checkpoint-container': {
      const body = await readJsonBody(request);
      return sendJson(response, 200, await calls.checkpointContainer(body, goneOf(response)));
    }
    default:
  }
  const [, id, watch] = /^GET \/v1\/operations\/([^/]+)(\/watch)?$/.exec(call) ?? [];
  if (id === undefined) {
    throw new KybernateError('InvalidInput', `the agent has no ${call}`);
  }
  const runId = searchParams.get('runId');
  const ref = { workflowId: decoded(id), ...(runId === null ? {} : { runId }) };
  return watch === undefined
    ? sendJson(response, 200, await calls.status(ref))
    : sendLines(response, (gone) => calls.follow(ref, gone));
}

function urlOf({ url = '/' }: IncomingMessage): URL {
  try {
    return new URL(url, 'http://agent');
  } catch (error) {
    throw new KybernateError('InvalidInput', `${JSON.stringify(url)} is no path of the agent`, { cause: error });
  }
}

/** Workflow ids hold slashes. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    throw new KybernateError('InvalidInput', `${JSON.stringify(text)} is not percent-encoded`, { cause: error });
  }
}

function listCallOf(parameters: URLSearchParams): Record<string, unknown> {
  const values = Object.fromEntries(parameters);
  const { limit, localOnly, ...others } = values;
  return {
    ...others,
    ...(limit === undefined ? {} : { limit: Number(limit) }),
    ...(localOnly === undefined ? {} : { localOnly: localOnly === 'true' ? true : localOnly }),
  };
}

function sendOperation(response: ServerResponse, operation: AgentOperation): void {
  sendJson(response, operation.status === 'running' ? 202 : 200, operation);
}

/** For work that nobody wants any more once its caller is gone. */
function goneOf(response: ServerResponse): AbortSignal {
  const gone = new AbortController();
  const closed = (): void => {
    if (!response.writableEnded) {
      gone.abort(new DOMException('the caller went away', 'AbortError'));
    }
  };
  if (response.closed) {
    // While its body was read.
    closed();
  } else {
    response.once('close', closed);
  }
  return gone.signal;
}

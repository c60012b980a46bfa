/*
 * The agent of this node: HTTP/JSON on a unix socket that root alone can open, for the runtime wrapper and local tools.
 *   POST /v1/prepare-restore    core/contract/restore.ts
 *   POST /v1/complete-restore
 *   POST /v1/checkpoint-container    core/contract/agent-checkpoint.ts
 *   GET  /v1/health
 * Errors are `{ "error": { type, message, details } }` with the names of docs/errors.md.
 */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { checkpointContainerRequest } from '../core/contract/agent-checkpoint.ts';
import { parseInput } from '../core/contract/parse.ts';
import {
  completeRestoreRequest,
  prepareRestoreRequest,
  type CompleteRestoreRequest,
} from '../core/contract/restore.ts';
import { type ErrorType, KybernateError, isKybernateError, messageOf } from '../core/errors.ts';
import type { Logger, Op } from '../core/op.ts';
import { pastSpans, span, traceparent, withinSpan, type PastSpan } from '../core/spans.ts';
import { checkpointForRuntime } from '../engine/agent-checkpoint.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { completeRestore, prepareRestore, sweepRestores } from '../engine/restore-agent.ts';
import { readRestore } from '../engine/restore-operation.ts';
import type { SourceAccess } from '../engine/restore-source.ts';
import { readJsonBody, sendJson } from './json-http.ts';

export interface AgentOptions extends SourceAccess {
  readonly deps: NodeDeps;
  readonly log: Logger;
  /** whom the worker takes its tasks from, told to those who ask */
  readonly temporal?: { readonly address: string; readonly namespace: string };
}

export interface AgentServer {
  readonly socketPath: string;
  /** Stops answering new calls and waits for those under way. */
  close(): Promise<void>;
}

const SWEEP_MS = 60_000;

/** Everything else is 500: the caller reads the type, the status is for tools that know only HTTP. */
const STATUS: Partial<Record<ErrorType, number>> = {
  InvalidInput: 400,
  RestoreRefused: 403,
  CheckpointNotFound: 404,
  ContainerNotFound: 404,
  Incompatible: 409,
  CheckpointCorrupt: 422,
  SignatureInvalid: 422,
  StorageUnavailable: 503,
  NodeUnavailable: 503,
  DiskFull: 507,
};

export function agentSocketPath(runDir: string): string {
  return join(runDir, 'agent.sock');
}

/**
 * Listens on `<runDir>/agent.sock`, mode 0600; replaces the socket of an agent that died.
 * @throws Internal another agent answers there
 */
export async function startAgent(options: AgentOptions): Promise<AgentServer> {
  const { deps, log } = options;
  const stop = new AbortController();
  const op: Op = { signal: stop.signal, log, progress: () => undefined };
  const socketPath = agentSocketPath(deps.settings.runDir);
  // Others may pass through it, to the sockets of the sidecar; everything of ours in it is closed by its own mode.
  mkdirSync(deps.settings.runDir, { recursive: true, mode: 0o711 });
  chmodSync(deps.settings.runDir, 0o711);
  if (await answers(socketPath)) {
    throw new KybernateError('Internal', `another agent serves ${socketPath}; one node has one worker`);
  }
  rmSync(socketPath, { force: true });
  const server = createServer((request, response) => {
    void handle(options, op, request, response);
  });
  // A prepared restore may wait for a download as long as the wrapper does.
  server.requestTimeout = 0;
  await listen(server, socketPath);
  chmodSync(socketPath, 0o600);
  await sweepRestores(deps, op);
  const sweep = setInterval(() => {
    sweepRestores(deps, op).catch((error: unknown) =>
      log.error({ error: messageOf(error) }, 'sweep of restores failed'),
    );
  }, SWEEP_MS);
  sweep.unref();
  log.info({ socketPath }, 'agent listens');
  return {
    socketPath,
    async close() {
      clearInterval(sweep);
      stop.abort();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeIdleConnections();
      });
    },
  };
}

function listen(server: Server, socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** Refused or absent: nobody is there. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

async function handle(
  options: AgentOptions,
  op: Op,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    const answer = await route(options, op, request, response);
    sendJson(response, 200, answer);
  } catch (error) {
    const known = isKybernateError(error) ? error : new KybernateError('Internal', messageOf(error), { cause: error });
    const level = known.type === 'Internal' ? 'error' : 'warn';
    op.log[level]({ url: request.url, type: known.type, error: known.message }, 'call to the agent failed');
    sendJson(response, STATUS[known.type] ?? 500, {
      error: { type: known.type, message: known.message, details: known.details },
    });
  }
}

/** What the wrapper had done before it asked; the asking itself is our own span. */
function wrapperSpans({ spans, outcome, errors }: CompleteRestoreRequest): PastSpan[] {
  const error = outcome === 'restored' ? {} : { error: errors.at(-1) ?? outcome };
  return spans.map((span, at) => ({
    ...span,
    name: `wrapper ${span.name}`,
    ...(at === spans.length - 1 ? error : {}),
  }));
}

/** Part of the trace that the caller names, else of that of the operation's own step. @param act is given its parent there */
function traced<Answer>(
  { settings }: NodeDeps,
  { headers }: IncomingMessage,
  { name, operationId }: { readonly name: string; readonly operationId: string | undefined },
  act: (parent: string | undefined) => Promise<Answer>,
): Promise<Answer> {
  const told = headers['traceparent']?.toString();
  const parent = told ?? (operationId === undefined ? undefined : readRestore(settings, operationId)?.traceparent);
  const fields = operationId === undefined ? {} : { 'kybernate.operation': operationId };
  return withinSpan(parent, () => span(name, fields, () => act(parent)));
}

async function route(
  options: AgentOptions,
  op: Op,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<unknown> {
  const { deps } = options;
  switch (`${request.method ?? ''} ${request.url ?? ''}`) {
    case 'GET /v1/health':
      return {
        status: 'ok',
        node: deps.settings.node,
        ...(options.temporal === undefined ? {} : { temporal: options.temporal }),
      };
    case 'POST /v1/prepare-restore': {
      const call = parseInput(prepareRestoreRequest, await readJsonBody(request));
      const prepare = { name: 'prepare restore', operationId: call.operationId };
      return traced(deps, request, prepare, async (parent = traceparent()) => {
        const prepared = await prepareRestore(deps, op, options, call);
        return { ...prepared, ...(parent === undefined ? {} : { traceparent: parent }) };
      });
    }
    case 'POST /v1/complete-restore': {
      const call = parseInput(completeRestoreRequest, await readJsonBody(request));
      pastSpans(() => wrapperSpans(call), request.headers['traceparent']?.toString());
      return traced(deps, request, { name: 'complete restore', operationId: call.operationId }, () =>
        completeRestore(deps, op, call),
      );
    }
    case 'POST /v1/checkpoint-container':
      return checkpointForRuntime(
        deps,
        whileConnected(op, response),
        parseInput(checkpointContainerRequest, await readJsonBody(request)),
      );
    default:
      throw new KybernateError('InvalidInput', `the agent has no ${request.method ?? ''} ${request.url ?? ''}`);
  }
}

/** For work that nobody wants any more once its caller is gone. */
function whileConnected(op: Op, response: ServerResponse): Op {
  const gone = new AbortController();
  response.once('close', () => {
    if (!response.writableEnded) {
      gone.abort(new DOMException('the caller went away', 'AbortError'));
    }
  });
  return { ...op, signal: AbortSignal.any([op.signal, gone.signal]) };
}

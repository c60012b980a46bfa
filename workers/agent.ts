/*
 * The agent of this node, for the runtime wrapper, local tools and control planes: gRPC (proto/agent.proto) and JSON over
 * HTTP (agent-http.ts) on one unix socket that root alone can open.
 */
import { createServer } from 'node:http';
import { join } from 'node:path';
import { checkpointContainerRequest } from '../core/contract/agent-checkpoint.ts';
import { parseInput } from '../core/contract/parse.ts';
import { completeRestoreRequest, prepareRestoreRequest } from '../core/contract/restore.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import { NO_METER, type Meter } from '../core/metrics.ts';
import type { Logger, Op } from '../core/op.ts';
import { checkpointForRuntime } from '../engine/agent-checkpoint.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { forgetEndedPods, openPodStarts } from '../engine/pod-starts.ts';
import { completeRestore } from '../engine/complete-restore.ts';
import { prepareRestore } from '../engine/prepare-restore.ts';
import type { SourceAccess } from '../engine/restore-source.ts';
import { sweepRestores } from '../engine/restore-sweep.ts';
import type { PeerCredentials } from '../native/libc/peer.ts';
import type { Injector } from './agent-grpc.ts';
import { agentRequests, type AgentHttpCalls } from './agent-http.ts';
import { agentOperations, type AgentOperations, type OperationsDeps } from './agent-operations.ts';
import { countCheckpoint, countedComplete } from './agent-metrics.ts';
import { listenForAgents } from './agent-socket.ts';
import { tracedComplete, tracedPrepare } from './agent-traces.ts';

export interface AgentOptions extends SourceAccess {
  readonly deps: NodeDeps;
  readonly log: Logger;
  /** whom the worker takes its tasks from, told to those who ask */
  readonly temporal?: { readonly address: string; readonly namespace: string };
  /** absent: calls that start or look for operations are refused */
  readonly operations?: Omit<OperationsDeps, 'node'>;
  /** absent: nobody counts */
  readonly meter?: Meter;
  /** instead of asking the kernel, in tests */
  readonly peerOf?: (fd: number) => PeerCredentials;
}

export interface AgentServer {
  readonly socketPath: string;
  /** Stops answering new calls and waits for those under way. */
  close(): Promise<void>;
}

const SWEEP_MS = 60_000;

export function agentSocketPath(runDir: string): string {
  return join(runDir, 'agent.sock');
}

/**
 * Listens on `<runDir>/agent.sock`, mode 0600; replaces the socket of an agent that died.
 * @throws Internal another agent answers there
 */
export async function startAgent(options: AgentOptions): Promise<AgentServer> {
  const { deps, log, peerOf } = options;
  const { runDir } = deps.settings;
  const stop = new AbortController();
  const op: Op = { signal: stop.signal, log, progress: () => undefined };
  const socketPath = agentSocketPath(runDir);
  const calls = callsOf(options, op);
  const http = createServer(agentRequests(calls, log));
  // A prepared restore may wait for a download as long as the wrapper does.
  http.requestTimeout = 0;
  // Node would close the connection and say nothing.
  http.on('connect', (_request, socket) => socket.end('HTTP/1.1 405 Method Not Allowed\r\nconnection: close\r\n\r\n'));
  let endGrpc = (): void => undefined;
  // The wrapper speaks HTTP. What gRPC needs is a sixth of the time of a worker's start: loaded when somebody speaks it.
  const grpc = async (): Promise<Injector> => {
    const { agentGrpc, injectorOf } = await import('./agent-grpc.ts');
    const server = agentGrpc(calls);
    endGrpc = () => server.forceShutdown();
    return injectorOf(server);
  };
  openPodStarts(deps.settings);
  const parts = { http, grpc, log, ...(peerOf === undefined ? {} : { peerOf }) };
  const socket = await listenForAgents(socketPath, runDir, parts);
  await sweepRestores(deps, op);
  const sweep = setInterval(() => {
    Promise.all([sweepRestores(deps, op), forgetEndedPods(deps)]).catch((error: unknown) =>
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
      await socket.close();
      endGrpc();
    },
  };
}

function callsOf(options: AgentOptions, op: Op): AgentHttpCalls {
  const { deps, temporal, meter = NO_METER } = options;
  const { settings } = deps;
  const { node } = settings;
  const operations =
    options.operations === undefined ? noOperations() : agentOperations({ ...options.operations, node }, op);
  return {
    ...operations,
    health: () => ({ status: 'ok', node, ...(temporal === undefined ? {} : { temporal }) }),
    prepareRestore: async (call, trace, gone) => {
      const asked = parseInput(prepareRestoreRequest, call);
      const signal = gone === undefined ? op.signal : AbortSignal.any([op.signal, gone]);
      return tracedPrepare(deps, asked, trace, () => prepareRestore(deps, { ...op, signal }, options, asked));
    },
    completeRestore: async (call, trace) => {
      const word = parseInput(completeRestoreRequest, call);
      return tracedComplete(deps, word, trace, () =>
        countedComplete({ meter, settings }, word, () => completeRestore(deps, op, word)),
      );
    },
    checkpointContainer: async (call, gone) => {
      const asked = parseInput(checkpointContainerRequest, call);
      const signal = AbortSignal.any([op.signal, gone]);
      return countCheckpoint(meter, await checkpointForRuntime(deps, { ...op, signal }, asked));
    },
  };
}

function noOperations(): AgentOperations {
  const refuse = (): Promise<never> =>
    Promise.reject(new KybernateError('NodeUnavailable', 'this agent has no connection to a Temporal server'));
  return {
    checkpoint: refuse,
    restore: refuse,
    status: refuse,
    // oxlint-disable-next-line require-yield -- it has nothing to tell but its error
    async *follow() {
      await refuse();
    },
    checkpoints: refuse,
  };
}

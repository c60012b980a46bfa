/*
 * HTTP/JSON over the operation's unix socket. Every call is a POST without a body and may be repeated: it starts the
 * step, joins it, or returns what it returned. Closing the connection cancels nothing; `cancel` does.
 *
 * From the save of the GPU on the workload waits, so what follows it, which the plan tells, begins at once: who asks for
 * it then joins. A worker that is slow, or dead, costs no pause.
 */
import { chmodSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { SaveGpuStateResult } from '../core/contract/checkpoint.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import type { Runner } from './runner.ts';

export const RUNNER_CALLS = [
  'save-gpu-state',
  'capture',
  'resume',
  'hand-over',
  'stop',
  'cancel',
  'state',
  'end',
] as const;
export type RunnerCall = (typeof RUNNER_CALLS)[number];

export interface RunnerAnswer {
  readonly result?: unknown;
  readonly error?: { readonly type: string; readonly message: string; readonly details: unknown };
}

/** @param onEnd called after the answer to `end` is written; the process exits then */
export async function serveRunner(runner: Runner, socketPath: string, onEnd: () => void): Promise<Server> {
  const server = createServer((request, response) => {
    const call = request.url?.slice(1) as RunnerCall;
    request.resume();
    perform(runner, call).then(
      (result) => answer(response, 200, { result: result ?? null }, call === 'end' ? onEnd : undefined),
      (error: unknown) => answer(response, 500, { error: describe(error) }),
    );
  });
  // A capture may take minutes and answers only then.
  server.requestTimeout = 0;
  server.listen(socketPath);
  await once(server, 'listening');
  chmodSync(socketPath, 0o600);
  return server;
}

async function perform(runner: Runner, call: RunnerCall): Promise<unknown> {
  switch (call) {
    case 'save-gpu-state':
      return saveAndGoOn(runner);
    case 'capture':
      return runner.capture();
    case 'resume':
      return runner.resume();
    case 'hand-over':
      return runner.handOver();
    case 'stop':
      return runner.stop();
    case 'cancel':
      runner.cancel(new DOMException('the operation was cancelled', 'AbortError'));
      return undefined;
    case 'state':
      return { frozen: runner.frozen };
    case 'end':
      return runner.busy ? runner.resume() : undefined;
    default:
      throw new KybernateError('Internal', `the runner knows no call ${String(call)}`);
  }
}

async function saveAndGoOn(runner: Runner): Promise<SaveGpuStateResult> {
  const saved = await runner.saveGpuState();
  if (saved.gpuProcesses > 0) {
    const next = (): Promise<unknown> => (runner.plan.rehearsal ? runner.resume() : runner.capture());
    // Kept by the runner for whoever joins.
    Promise.resolve()
      .then(next)
      .catch(() => undefined);
  }
  return saved;
}

function describe(error: unknown): NonNullable<RunnerAnswer['error']> {
  if (error instanceof KybernateError) {
    return { type: error.type, message: error.message, details: error.details };
  }
  const type = error instanceof Error && error.name === 'AbortError' ? 'Cancelled' : 'Internal';
  return { type, message: messageOf(error), details: {} };
}

function answer(response: ServerResponse, status: number, body: RunnerAnswer, then?: () => void): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body), then);
}

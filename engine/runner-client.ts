/* Calls of an operation's runner over its socket, and what becomes of a call whose runner dies. */
import { request } from 'node:http';
import { isErrorType, KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { guardError, untilGuarded } from './guard-report.ts';
import { confirmGuard } from './guard-start.ts';
import type { NodeDeps } from './node-deps.ts';
import { checkToken, operationPaths, readPlan, type OperationPaths, type OperationPlan } from './operation.ts';
import { runnerPid } from './runner-process.ts';
import type { RunnerAnswer, RunnerCall } from './runner-server.ts';

/** Names an operation in every step. */
export interface OperationRef {
  readonly operationId: string;
  readonly checkpointId: string;
  readonly container: { readonly namespace: string; readonly id: string };
  readonly token: number;
}

/** For a call that is only noted. */
const NOTE_MS = 10_000;
/** Beyond the budgets: an undo, with its verification. */
const UNDO_GRACE_MS = 120_000;
/** Beyond the budgets: starting runc and CRIU, and what is written when the workload runs again. */
const STEP_GRACE_MS = 600_000;

/** Its guard brings the workload back meanwhile; a worker does where there is none. */
export class RunnerGone extends KybernateError {
  constructor(operationId: string, cause: unknown) {
    super('DumpFailed', `the runner of operation ${operationId} is gone; what it left is undone`, { cause });
  }
}

/** @throws DumpFailed this node knows of no such operation */
export function planOf(deps: NodeDeps, ref: OperationRef): OperationPlan {
  const plan = readPlan(deps.settings, ref.operationId);
  if (plan === undefined) {
    throw new KybernateError(
      'DumpFailed',
      `operation ${ref.operationId} is unknown on node ${deps.settings.node} (was the node rebooted?); nothing is frozen by it`,
    );
  }
  return plan;
}

/**
 * @returns what the runner answers; a step whose caller is cancelled ends when the runner has undone it
 * @throws RunnerGone; LockLost a newer operation owns the container; the runner's own errors
 */
export async function ask(deps: NodeDeps, op: Op, ref: OperationRef, call: RunnerCall): Promise<unknown> {
  const deadlineMs = answerMs(planOf(deps, ref), call);
  if (call !== 'resume' && call !== 'end') {
    // The token orders operations, but never keeps a workload that stands still from running again.
    checkToken(deps.settings, ref.container, ref.token);
  }
  const paths = operationPaths(deps.settings, ref.operationId);
  if ((call === 'capture' || call === 'save-gpu-state') && runnerPid(paths) !== undefined) {
    await confirmGuard(deps.settings, op, ref.operationId);
  }
  function cancel(): void {
    // Its answer comes through the call that it ends.
    callRunner(paths, 'cancel', NOTE_MS).catch(() => undefined);
  }
  if (call === 'capture' || call === 'save-gpu-state') {
    if (op.signal.aborted) {
      // A step that nobody wants any more must not begin now.
      cancel();
      op.signal.throwIfAborted();
    }
    op.signal.addEventListener('abort', cancel, { once: true });
  }
  try {
    const answer = await callRunner(paths, call, deadlineMs).catch(async (error: unknown) => {
      throw await runnerGone(planOf(deps, ref), call, error);
    });
    if (answer.error !== undefined) {
      throw toError(answer.error, op);
    }
    return answer.result;
  } finally {
    op.signal.removeEventListener('abort', cancel);
  }
}

/** @returns what became of the workload, as its guard tells; those who let it go themselves need not wait for that */
async function runnerGone(plan: OperationPlan, call: RunnerCall, cause: unknown): Promise<KybernateError> {
  if (call !== 'capture' && call !== 'save-gpu-state') {
    return new RunnerGone(plan.operationId, cause);
  }
  const report = await untilGuarded(plan);
  return report === undefined ? new RunnerGone(plan.operationId, cause) : guardError(plan, report);
}

function toError(error: NonNullable<RunnerAnswer['error']>, op: Op): unknown {
  if (error.type === 'Cancelled') {
    return op.signal.aborted ? op.signal.reason : new DOMException(error.message, 'AbortError');
  }
  return new KybernateError(isErrorType(error.type) ? error.type : 'Internal', error.message, {
    details: (error.details ?? {}) as Record<string, unknown>,
  });
}

/** After it the runner counts as gone, and is ended by the undo: its own budgets were over long before. */
function answerMs({ freezeBudgetMs, gpu }: OperationPlan, call: RunnerCall): number {
  const hooksMs = (gpu.quiesce?.timeoutMs ?? 0) + (gpu.resume?.timeoutMs ?? 0);
  const gpuMs = gpu.lockTimeoutMs + 2 * gpu.estimatedRestoreMs + hooksMs;
  const isStep = call === 'capture' || call === 'save-gpu-state';
  return freezeBudgetMs + gpuMs + (isStep ? STEP_GRACE_MS : UNDO_GRACE_MS);
}

function callRunner(paths: OperationPaths, call: RunnerCall, deadlineMs: number): Promise<RunnerAnswer> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: paths.socket, path: `/${call}`, method: 'POST', agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => (text += part));
      response.on('error', reject);
      response.on('end', () => {
        try {
          resolve(JSON.parse(text) as RunnerAnswer);
        } catch (error) {
          reject(error);
        }
      });
    });
    sent.setTimeout(deadlineMs, () => sent.destroy(new Error(`no answer to ${call} in ${deadlineMs} ms`)));
    sent.on('error', reject);
    sent.end();
  });
}

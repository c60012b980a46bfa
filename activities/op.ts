/*
 * Builds core's Op from the context of an activity: its cancellation, its log, and progress that becomes a heartbeat,
 * now and then a signal to the workflow.
 */
import { createHash } from 'node:crypto';
import { Context, log } from '@temporalio/activity';
import type { ProgressReport } from '../core/contract/progress.ts';
import { KybernateError } from '../core/errors.ts';
import { parseOperationId, type OperationId } from '../core/ids.ts';
import type { Logger, Op, Progress } from '../core/op.ts';
import { tellProgress } from './observe.ts';
import { Pulse, signalIntervalMs } from './pulse.ts';

/** Silence of a step after which it counts as hung: no more heartbeats, and its signal is aborted. */
const STALL_MS = 300_000;

export interface OpOptions {
  /** the phase that the workflow is in during this step; absent: no progress signals (never from inside the freeze) */
  readonly phase?: string;
  /** told with the progress, by a step that runs on several nodes at once */
  readonly node?: string;
  /** replaces the default of five minutes, for a step that is quiet by nature */
  readonly stallMs?: number;
}

export interface ActivityOp extends Op {
  /** stable over attempts, safe as a file name */
  readonly operationId: OperationId;
  readonly workflow: { readonly workflowId: string; readonly runId: string };
}

/** First 32 hexadecimal digits of the hash of both ids: what people type never becomes a path. */
export function operationIdOf(workflowId: string, runId: string): OperationId {
  return parseOperationId(createHash('sha256').update(`${workflowId}\0${runId}`).digest('hex').slice(0, 32));
}

/** Runs one step with an Op of its own; heartbeats end with it. */
export async function withOp<Result>(options: OpOptions, step: (op: ActivityOp) => Promise<Result>): Promise<Result> {
  const context = Context.current();
  const { workflowExecution, heartbeatTimeoutMs, scheduledTimestampMs } = context.info;
  if (workflowExecution === undefined) {
    throw new KybernateError('Internal', `${context.info.activityType} was started outside a workflow`);
  }
  const stalled = new AbortController();
  const report = reporter(context, options, scheduledTimestampMs);
  const pulse = new Pulse({
    everyMs: Math.max(100, (heartbeatTimeoutMs ?? 60_000) / 3),
    stallMs: options.stallMs ?? STALL_MS,
    beat: (last) => context.heartbeat({ v: 1, ...last }),
    onStall: (silentMs) => {
      log.error('no progress: the step counts as hung', { silentMs, activity: context.info.activityType });
      stalled.abort(new KybernateError('Internal', `${context.info.activityType} made no progress for ${silentMs} ms`));
    },
  });
  try {
    return await step({
      operationId: operationIdOf(workflowExecution.workflowId, workflowExecution.runId),
      workflow: { workflowId: workflowExecution.workflowId, runId: workflowExecution.runId },
      signal: AbortSignal.any([context.cancellationSignal, stalled.signal]),
      log: activityLogger(),
      progress: (done) => {
        pulse.moved(done);
        tellProgress(context, done);
        report(done);
      },
    });
  } finally {
    pulse.stop();
  }
}

/** Tells the workflow at a falling rate. Lost reports do not matter: the next one carries the whole state. */
function reporter(context: Context, { phase, node }: OpOptions, startedMs: number): (done: Progress) => void {
  const execution = context.info.workflowExecution;
  if (phase === undefined || execution === undefined) {
    return () => undefined;
  }
  let nextMs = Date.now() + signalIntervalMs(0);
  return ({ bytesDone, bytesTotal }) => {
    const nowMs = Date.now();
    if (nowMs < nextMs || bytesDone === undefined) {
      return;
    }
    nextMs = nowMs + signalIntervalMs(nowMs - startedMs);
    const message: ProgressReport = {
      phase,
      bytesDone,
      ...(node === undefined ? {} : { node }),
      ...(bytesTotal === undefined ? {} : { bytesTotal }),
    };
    context.client.workflow
      .getHandle(execution.workflowId, execution.runId)
      .signal('reportProgress', message)
      .catch((error: unknown) => log.debug('progress was not delivered', { error }));
  };
}

function activityLogger(): Logger {
  return {
    debug: (fields, message) => log.debug(message, fields),
    info: (fields, message) => log.info(message, fields),
    warn: (fields, message) => log.warn(message, fields),
    error: (fields, message) => log.error(message, fields),
  };
}

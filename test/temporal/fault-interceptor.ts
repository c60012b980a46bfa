/*
 * Workflow interceptor of the fault table. One step of an operation meets its timeouts at once. From a step whose node is
 * gone on, nobody serves the queues of that node: a worker cannot stop between two steps without one set of workers per
 * case, and a queue without a poller is the same to the server and to the workflow. All other steps, which only have to
 * succeed, run as local activities: they are in the history, too, and spare the server most of what a case costs.
 */
import {
  proxyLocalActivities,
  workflowInfo,
  type ActivityOptions,
  type LocalActivityOptions,
  type WorkflowInterceptors,
} from '@temporalio/workflow';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';

/** What the memo of a run says of its fault. */
export interface Meeting {
  readonly fault: string;
  readonly step: string;
  /** which activity of the step, from 1 */
  readonly nth: number;
  /** steps that the server has to know of while they run */
  readonly served: readonly string[];
}

/** Passes for hours of silence, in ms. */
const SILENCE_MS = 400;
/** Passes for the time in which a step is tried again and again, in ms. */
const PATIENCE_MS = 3000;
const LONG_MS = 30_000;
/** The one step that is a local activity in the workflows themselves. */
const LOCAL_STEP = 'requestLock';

export function interceptors(): WorkflowInterceptors {
  let seen = 0;
  /** base name of the queues of the node that is gone */
  let gone: string | undefined;
  /** only this activity of the step: the same step as an undo is another one */
  const faultOf = (step: string): string | undefined => {
    const { fault, step: faulty, nth } = meeting();
    return step === faulty && (seen += 1) === nth ? (fault ?? 'none') : undefined;
  };
  return {
    outbound: [
      {
        scheduleActivity(input, next) {
          const { activityType: step, options } = input;
          const fault = faultOf(step);
          const queue = baseOf(options);
          gone ??= fault === 'node gone' ? queue : undefined;
          if (queue === gone) {
            return next({ ...input, options: onNobodysQueue(options) });
          }
          if (fault === undefined && meeting().served?.includes(step) !== true) {
            return runLocally(step, input.args, options);
          }
          return next({ ...input, options: fault === 'hangs' ? impatient(options) : unhurried(options) });
        },
        scheduleLocalActivity(input, next) {
          const { activityType: step, options } = input;
          const fault = step === LOCAL_STEP ? faultOf(step) : undefined;
          return next({ ...input, options: fault === 'hangs' ? impatient(options) : unhurried(options) });
        },
      },
    ],
  };
}

/** The memo is there after the interceptors; a lock is started by its holder, with none, and is named after its case. */
function meeting(): Partial<Meeting> {
  const { memo, workflowType, workflowId } = workflowInfo();
  if (workflowType !== 'containerLock') {
    return memo ?? {};
  }
  return { fault: workflowId.endsWith('-hangs') ? 'hangs' : 'none', step: 'isRunClosed', nth: 1 };
}

function runLocally(step: string, args: unknown[], { retry = {} }: ActivityOptions): Promise<unknown> {
  const activities = proxyLocalActivities<Record<string, (...args: unknown[]) => Promise<unknown>>>({
    startToCloseTimeout: LONG_MS,
    retry,
  });
  return activities[step]?.(...args) ?? Promise.reject(new Error(`no activity ${step}`));
}

/** The queues of a node differ in their ends. */
function baseOf({ taskQueue = CONTROL_QUEUE }: ActivityOptions): string {
  return taskQueue.replace(/-(ctl|fetch|verify|transfer)$/, '');
}

type Options = ActivityOptions | LocalActivityOptions;

/** Nobody waits for the next attempt. */
function hasty<Some extends Options>(options: Some): Some {
  return { ...options, retry: { ...options.retry, initialInterval: 20, maximumInterval: 50 } };
}

/** A busy machine takes longer than a step may, and its server loses one now and then. */
function unhurried<Some extends Options>(options: Some): Some {
  const { scheduleToCloseTimeout, retry } = options;
  return hasty({
    ...options,
    startToCloseTimeout: LONG_MS,
    ...(scheduleToCloseTimeout === undefined ? {} : { scheduleToCloseTimeout: 4 * LONG_MS }),
    retry: { ...retry, maximumAttempts: 5 },
  });
}

function impatient<Some extends Options>(options: Some): Some {
  const beats = 'heartbeatTimeout' in options;
  return hasty({
    ...options,
    ...(beats ? { heartbeatTimeout: SILENCE_MS } : { startToCloseTimeout: SILENCE_MS }),
    ...(options.scheduleToCloseTimeout === undefined ? {} : { scheduleToCloseTimeout: PATIENCE_MS }),
  });
}

function onNobodysQueue(options: ActivityOptions): ActivityOptions {
  return { ...options, taskQueue: `${options.taskQueue}-away`, scheduleToStartTimeout: SILENCE_MS };
}

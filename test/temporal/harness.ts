/*
 * One Temporal worker set for a whole test file: workflows and control activities on `kybernate`, and one scripted node
 * and its sidecar on their four queues. A scenario is found by its workflow id, so that many run at once over the same
 * workers.
 */
import { join } from 'node:path';
import { Context } from '@temporalio/activity';
import { Client, Connection, WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import {
  ApplicationFailure,
  CancelledFailure,
  TerminatedFailure,
  defaultPayloadConverter,
  type Payload,
} from '@temporalio/common';
import {
  NativeConnection,
  Runtime,
  DefaultLogger,
  Worker,
  bundleWorkflowCode,
  makeTelemetryFilterString,
  type WorkflowBundleOption,
} from '@temporalio/worker';

import { lockActivities } from '../../activities/control/locks.ts';
import { mapErrorsInterceptor } from '../../activities/map-errors.ts';
import type {
  ControlActivities,
  FetchActivities,
  GarbageActivities,
  NodeActivities,
  NodeControlActivities,
  TransferActivities,
  VerifyActivities,
} from '../../activities/contract.ts';
import type { CheckpointRequest } from '../../core/contract/checkpoint.ts';
import type { CollectGarbageRequest } from '../../core/contract/collect-garbage.ts';
import type { RehearseRequest } from '../../core/contract/gpu.ts';
import type { LockInput } from '../../core/contract/lock.ts';
import type { PrefetchRequest } from '../../core/contract/prefetch.ts';
import type { RestoreRequest } from '../../core/contract/restore.ts';
import {
  CONTROL_QUEUE,
  fetchQueue,
  nodeControlQueue,
  nodeQueue,
  transferQueue,
  verifyQueue,
} from '../../core/task-queues.ts';
import { workflowBundlePath } from '../../workers/build-bundle.ts';
import type { Tracing } from '../../workers/tracing.ts';
import { happyActivities } from './happy.ts';
import { NODE, checkpointOf, prefetchOf, rehearseOf, restoreOf } from './requests.ts';

export type AllActivities = NodeActivities &
  NodeControlActivities &
  FetchActivities &
  VerifyActivities &
  GarbageActivities &
  TransferActivities &
  ControlActivities;
export type StepName = keyof AllActivities;

/** Replaces a step of one scenario; `happy` is what it would have returned. */
export type Script = (input: never, happy: () => Promise<unknown>) => Promise<unknown>;

export interface Scenario {
  readonly steps?: Partial<Record<StepName, Script>>;
}

export interface HarnessOptions {
  readonly server: { readonly address: string; readonly namespace: string };
  /** how locks watch their holders and end */
  readonly lock?: LockInput;
  /** workflow interceptors to bundle with the workflows; absent: the bundle as it is shipped */
  readonly interceptors?: readonly string[];
  /** clients, workers and the bundle with traces; absent: as without */
  readonly tracing?: Tracing;
}

export interface Harness {
  readonly client: Client;
  checkpoint(id: string, scenario?: Scenario, request?: Partial<CheckpointRequest>): Promise<WorkflowHandle>;
  restore(id: string, scenario?: Scenario, request?: Partial<RestoreRequest>): Promise<WorkflowHandle>;
  rehearse(id: string, scenario?: Scenario, request?: Partial<RehearseRequest>): Promise<WorkflowHandle>;
  prefetch(id: string, scenario?: Scenario, request?: Partial<PrefetchRequest>): Promise<WorkflowHandle>;
  collectGarbage(id: string, scenario?: Scenario, request?: CollectGarbageRequest): Promise<WorkflowHandle>;
  /** any workflow, with the request as it is */
  start(type: string, id: string, scenario: Scenario, request: object, memo?: object): Promise<WorkflowHandle>;
  script(workflowId: string, scenario: Scenario): void;
  /** steps of this workflow whose activity runs right now */
  running(workflowId: string): string[];
  /** resolves when the step of this workflow has begun; @param nth activity of the step, from 1 */
  reached(workflowId: string, step: StepName, nth?: number): Promise<void>;
  /** starts workers for queues of another node; the result stops them */
  serve(queues: readonly string[]): Promise<() => Promise<void>>;
  close(): Promise<void>;
}

/** A step that fails for good. */
export function fails(type: string): Script {
  return () => Promise.reject(ApplicationFailure.nonRetryable(`scripted ${type}`, type));
}

/** Runs until the workflow is cancelled. */
export const untilCancelled: Script = () => beating(Context.current().cancelled);

/** Looks alive meanwhile, however long it takes; ends with its worker. */
async function beating<T>(wait: Promise<T>): Promise<T> {
  const context = Context.current();
  const beat = setInterval(() => context.heartbeat(), 50);
  try {
    return await Promise.race([wait, context.cancelled]);
  } finally {
    clearInterval(beat);
  }
}

/** Says nothing, not even a heartbeat, until its worker ends. */
export const silent: Script = () => Context.current().cancelled;

/** The first call goes to the script, later ones (the same step as an undo) succeed. */
export function once(script: Script): Script {
  let calls = 0;
  return (input, happy) => {
    calls += 1;
    return calls === 1 ? script(input, happy) : happy();
  };
}

/** Waits until `open` is called, then succeeds. */
export function gate(): { script: Script; open: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { script: async (_input, happy) => beating(promise).then(happy), open: () => resolve() };
}

const IDENTITY = 'test';

export async function openHarness(options: HarnessOptions): Promise<Harness> {
  installRuntime();
  const { address, namespace } = options.server;
  const { activity = [], client: clientInterceptors = [], sinks = {} } = options.tracing ?? {};
  const scenarios = new Map<string, Scenario>();
  const begun = new Map<string, () => void>();
  /** ids of the activities of a step, in the order in which they began */
  const activitiesOf = new Map<string, Set<string>>();
  const running = new Set<Call>();
  const [native, connection] = await Promise.all([
    NativeConnection.connect({ address }),
    Connection.connect({ address }),
  ]);
  const client = new Client({
    connection,
    namespace,
    identity: IDENTITY,
    interceptors: { workflow: [...clientInterceptors] },
  });
  const activities = scripted({ ...happyActivities, ...lockActivities(options.lock) }, scenarios, (call) => {
    const key = `${call.workflowId} ${call.step}`;
    const ids = (activitiesOf.get(key) ?? new Set()).add(call.activityId);
    activitiesOf.set(key, ids);
    begun.get(`${key} ${ids.size}`)?.();
    running.add(call);
    return () => running.delete(call);
  });
  const common = {
    connection: native,
    namespace,
    identity: IDENTITY,
    interceptors: { activity: [...activity, mapErrorsInterceptor] },
    // A step that hangs keeps its slot.
    maxConcurrentActivityTaskExecutions: 1000,
    maxConcurrentActivityTaskPolls: 3,
    // A cancellation arrives with the answer to a heartbeat.
    maxHeartbeatThrottleInterval: 200,
  };
  const serve = async (queues: readonly string[]): Promise<() => Promise<void>> => {
    const workers = await Promise.all(queues.map((taskQueue) => Worker.create({ ...common, taskQueue, activities })));
    const running = Promise.all(workers.map((worker) => worker.run()));
    return async () => {
      workers.forEach((worker) => worker.shutdown());
      await running;
    };
  };
  const workflowBundle = await bundleWith(options);
  const control = await Worker.create({ ...common, taskQueue: CONTROL_QUEUE, activities, workflowBundle, sinks });
  const controlRuns = control.run();
  const stopNode = await serve(nodeQueues(NODE));

  const start: Harness['start'] = (type, id, scenario, request, memo = {}) => {
    scenarios.set(id, scenario);
    return client.workflow.start(type, {
      workflowId: id,
      taskQueue: CONTROL_QUEUE,
      args: [request],
      memo: { ...memo },
    });
  };
  return {
    client,
    start,
    running: (workflowId) => [...running].filter((call) => call.workflowId === workflowId).map(({ step }) => step),
    checkpoint: (id, scenario = {}, request = {}) => start('checkpoint', id, scenario, checkpointOf(id, request)),
    restore: (id, scenario = {}, request = {}) => start('restore', id, scenario, restoreOf(id, request)),
    rehearse: (id, scenario = {}, request = {}) => start('rehearse', id, onGpu(scenario), rehearseOf(id, request)),
    prefetch: (id, scenario = {}, request = {}) => start('prefetch', id, scenario, prefetchOf(id, request)),
    collectGarbage: (id, scenario = {}, request = {}) => start('collectGarbage', id, scenario, request),
    script(workflowId, scenario) {
      scenarios.set(workflowId, scenario);
    },
    reached: (workflowId, step, nth = 1) =>
      new Promise((resolve) => {
        begun.set(`${workflowId} ${step} ${nth}`, resolve);
      }),
    serve,
    async close() {
      control.shutdown();
      await Promise.all([controlRuns, stopNode()]);
      await native.close();
      await connection.close();
    },
  };
}

let installed = false;

/** Once a process, however many harnesses it opens. */
function installRuntime(): void {
  if (!installed) {
    Runtime.install({
      logger: new DefaultLogger('ERROR'),
      telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'ERROR', other: 'ERROR' }) } },
    });
  }
  installed = true;
}

async function bundleWith({ interceptors: modules, tracing }: HarnessOptions): Promise<WorkflowBundleOption> {
  if (modules === undefined) {
    return { codePath: await workflowBundlePath(tracing?.on === true ? 'traced' : 'plain') };
  }
  return bundleWorkflowCode({
    workflowsPath: join(import.meta.dirname, '../../workflows/index.ts'),
    workflowInterceptorModules: [...modules],
    logger: new DefaultLogger('WARN'),
  });
}

/** A container whose one process holds 1 GiB of VRAM. */
export function onGpu({ steps }: Scenario): Scenario {
  const vramBytes = 1_073_741_824;
  const planCheckpoint: Script = async (_input, happy) => ({
    ...((await happy()) as object),
    gpuProcesses: 1,
    vramBytes,
  });
  const saveGpuState: Script = () =>
    Promise.resolve({ gpuProcesses: 1, vramBytes, durationMs: 30, parts: { 'gpu-lock': 5, 'gpu-save': 25 } });
  return { steps: { planCheckpoint, saveGpuState, ...steps } };
}

export function nodeQueues(node: string): string[] {
  return [nodeQueue(node), nodeControlQueue(node), fetchQueue(node), verifyQueue(node), transferQueue(node)];
}

interface Call {
  readonly workflowId: string;
  readonly step: string;
  readonly activityId: string;
}

function scripted(
  happy: AllActivities,
  scenarios: ReadonlyMap<string, Scenario>,
  begin: (call: Call) => () => void,
): AllActivities {
  const wrap = (name: string, run: (input: never) => Promise<unknown>): unknown => {
    return async (input: never): Promise<unknown> => {
      const { activityId, workflowExecution } = Context.current().info;
      const workflowId = workflowExecution?.workflowId ?? '';
      const end = begin({ workflowId, step: name, activityId });
      const script = scenarios.get(workflowId)?.steps?.[name as StepName];
      try {
        return await (script === undefined ? run(input) : script(input, () => run(input)));
      } finally {
        end();
      }
    };
  };
  const steps = Object.entries(happy) as Array<[string, (input: never) => Promise<unknown>]>;
  return Object.fromEntries(steps.map(([name, run]) => [name, wrap(name, run)])) as unknown as AllActivities;
}

/**
 * Steps in the order in which the workflow asked for them, lock signals included. A lock that was granted while its
 * requester gave up is let go twice: counted once, since which of the two came first is chance.
 */
export async function stepsOf(handle: WorkflowHandle): Promise<string[]> {
  const { events } = await handle.fetchHistory();
  const steps = (events ?? []).flatMap((event) => {
    const activity = event.activityTaskScheduledEventAttributes?.activityType?.name;
    const signal = event.signalExternalWorkflowExecutionInitiatedEventAttributes?.signalName;
    const step = activity ?? localActivity(event.markerRecordedEventAttributes?.details) ?? signal;
    return step === undefined || step === null ? [] : [step];
  });
  return steps.filter((step, index) => step !== 'releaseLock' || steps[index - 1] !== 'releaseLock');
}

/** Type of the local activity that a marker records. */
function localActivity(details: MarkerDetails): string | undefined {
  const payload = details?.['data']?.payloads?.[0];
  return payload === undefined
    ? undefined
    : defaultPayloadConverter.fromPayload<{ activity_type?: string }>(payload).activity_type;
}

type MarkerDetails = Record<string, { payloads?: Payload[] | null }> | null | undefined;

export type Outcome =
  { readonly result: unknown } | { readonly type: string; readonly message: string; readonly details?: unknown };

/** How the workflow ended: its result, or the type of its failure (`Cancelled` for a cancellation). */
export async function outcomeOf(handle: WorkflowHandle): Promise<Outcome> {
  try {
    return { result: await handle.result() };
  } catch (error) {
    const cause = error instanceof WorkflowFailedError ? error.cause : error;
    if (cause instanceof CancelledFailure) {
      return { type: 'Cancelled', message: cause.message };
    }
    if (cause instanceof TerminatedFailure) {
      return { type: 'Terminated', message: cause.message };
    }
    if (cause instanceof ApplicationFailure) {
      return { type: cause.type ?? '', message: cause.message, details: cause.details?.[0] };
    }
    throw error;
  }
}

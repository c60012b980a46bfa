/*
 * Every option of every activity, in a few classes. Each is bounded; what may take longer than 30 s has a heartbeat;
 * every step on a node has a scheduleToStartTimeout, since a node that is gone would keep the step waiting for ever.
 */
import {
  ActivityCancellationType,
  proxyActivities,
  proxyLocalActivities,
  type ActivityOptions,
  type LocalActivityOptions,
} from '@temporalio/workflow';
import type {
  ControlActivities,
  GarbageActivities,
  FetchActivities,
  NodeActivities,
  NodeControlActivities,
  TransferActivities,
  VerifyActivities,
} from '../activities/contract.ts';
import { NON_RETRYABLE_TYPES } from '../core/errors.ts';
import type { Timeouts } from '../core/contract/common.ts';
import {
  CONTROL_QUEUE,
  fetchQueue,
  nodeControlQueue,
  nodeQueue,
  transferQueue,
  verifyQueue,
} from '../core/task-queues.ts';
import { isPickupTimeout } from './failures.ts';
import { checkSidecar } from './probe.ts';

/** Where the steps run, and how long they may take. */
export interface NodeScope {
  readonly node: string;
  readonly timeouts: Timeouts;
  /** shown beside each step in the Web UI */
  readonly summary: string;
}

const HOUR_MS = 3_600_000;

const retry = (maximumAttempts: number, maximumIntervalMs = 30_000): NonNullable<ActivityOptions['retry']> => ({
  ...(maximumAttempts > 0 ? { maximumAttempts } : {}),
  initialInterval: 1000,
  backoffCoefficient: 2,
  maximumInterval: maximumIntervalMs,
  nonRetryableErrorTypes: [...NON_RETRYABLE_TYPES],
});

const base = (scope: Pick<NodeScope, 'summary'>): Pick<ActivityOptions, 'cancellationType' | 'summary'> => ({
  // Undo must not start while the step still runs.
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  summary: scope.summary,
});

/** A step on the node that may take long: bounded by its own time and by the silence of its worker. */
function nodeStep(scope: NodeScope, queue: (node: string) => string, maximumAttempts: number): ActivityOptions {
  return {
    ...base(scope),
    taskQueue: queue(scope.node),
    scheduleToStartTimeout: scope.timeouts.nodePickupMs,
    startToCloseTimeout: scope.timeouts.stepMs,
    heartbeatTimeout: scope.timeouts.heartbeatMs,
    retry: retry(maximumAttempts),
  };
}

/** The option classes; exported for the test that checks them. */
export const OPTION_CLASSES = {
  /** Is the node there? Fails before anything is touched; a containerd that restarts is waited for, 7 s in all. */
  probe: (scope: NodeScope): ActivityOptions => ({
    ...base(scope),
    taskQueue: nodeControlQueue(scope.node),
    scheduleToStartTimeout: scope.timeouts.nodePickupMs,
    startToCloseTimeout: 10_000,
    retry: retry(4),
  }),
  /** Looks at the node for an operation; may read the description of a checkpoint in the store. */
  preflight: (scope: NodeScope): ActivityOptions => nodeStep(scope, nodeControlQueue, 5),
  /** Plan, runner, GPU save, capture: a second attempt attaches to the runner of the first. */
  capture: (scope: NodeScope): ActivityOptions => nodeStep(scope, nodeQueue, 3),
  /** Longer work on files and containers of the node. */
  work: (scope: NodeScope): ActivityOptions => nodeStep(scope, nodeQueue, 3),
  /** Lets the workload run or ends it, on the queue that never waits behind work. */
  thaw: (scope: NodeScope): ActivityOptions => nodeStep(scope, nodeControlQueue, 3),
  /** Waits for the store, and for a sidecar that restarts: the checkpoint is safe on the node's disk meanwhile. */
  transfer: (scope: NodeScope): ActivityOptions => ({
    ...base(scope),
    taskQueue: transferQueue(scope.node),
    scheduleToStartTimeout: scope.timeouts.uploadMs,
    scheduleToCloseTimeout: scope.timeouts.uploadMs,
    startToCloseTimeout: scope.timeouts.uploadMs,
    heartbeatTimeout: scope.timeouts.heartbeatMs,
    retry: retry(0),
  }),
  /** Reads back what was sent: waits as the transfer does, for the same reasons. */
  readback: (scope: NodeScope): ActivityOptions => ({
    ...OPTION_CLASSES.transfer(scope),
    taskQueue: verifyQueue(scope.node),
  }),
  /** Reads copies for somebody who waits for the answer. */
  survey: (scope: NodeScope): ActivityOptions => nodeStep(scope, verifyQueue, 5),
  /** Store or archive to node, with somebody waiting for it. */
  fetch: (scope: NodeScope): ActivityOptions => nodeStep(scope, fetchQueue, 5),
  /** Reads the store for somebody who waits for it. */
  look: (scope: NodeScope): ActivityOptions => nodeStep(scope, transferQueue, 5),
  /** A note on the node's disk about what is done elsewhere: waits for a node that restarts, as the transfer does. */
  note: (scope: NodeScope): ActivityOptions => ({
    ...base(scope),
    taskQueue: nodeControlQueue(scope.node),
    scheduleToStartTimeout: scope.timeouts.uploadMs,
    scheduleToCloseTimeout: scope.timeouts.uploadMs,
    startToCloseTimeout: 20_000,
    retry: retry(0),
  }),
  /** Catalogue and locks: no node involved. */
  control: (scope: Pick<NodeScope, 'summary'>): ActivityOptions => ({
    ...base(scope),
    taskQueue: CONTROL_QUEUE,
    startToCloseTimeout: 20_000,
    scheduleToCloseTimeout: 300_000,
    retry: retry(0, 10_000),
  }),
  /** Walks through the whole store: hours where it is large, and it waits for a store that does not answer. */
  catalog: (scope: Pick<NodeScope, 'summary'>): ActivityOptions => ({
    ...base(scope),
    taskQueue: CONTROL_QUEUE,
    startToCloseTimeout: 6 * HOUR_MS,
    scheduleToCloseTimeout: 24 * HOUR_MS,
    heartbeatTimeout: 15_000,
    retry: retry(0, 60_000),
  }),
  /** Undo: generous and stubborn, but not for ever. */
  compensate: (scope: NodeScope): ActivityOptions => ({
    ...base(scope),
    taskQueue: nodeControlQueue(scope.node),
    scheduleToStartTimeout: scope.timeouts.nodePickupMs * 2,
    scheduleToCloseTimeout: Math.max(HOUR_MS, scope.timeouts.nodePickupMs * 4),
    startToCloseTimeout: Math.max(600_000, scope.timeouts.heartbeatMs),
    heartbeatTimeout: scope.timeouts.heartbeatMs,
    retry: retry(10),
  }),
} as const;

export const lockOptions = (scope: Pick<NodeScope, 'summary'>): LocalActivityOptions => ({
  ...base(scope),
  startToCloseTimeout: 10_000,
  scheduleToCloseTimeout: 60_000,
  retry: retry(0, 5000),
});

/** The activities of one node as an operation sees them. */
export interface NodeProxies {
  readonly probe: Pick<
    NodeControlActivities,
    'probeNode' | 'resolveLocal' | 'olderLocal' | 'listCopies' | 'checkUnused' | 'inspectRestore'
  >;
  readonly preflight: Pick<NodeControlActivities, 'preflightRestore' | 'preflightCheckpoint'>;
  readonly capture: Pick<NodeActivities, 'planCheckpoint' | 'startRunner' | 'saveGpuState' | 'captureContainer'>;
  readonly work: Pick<
    NodeActivities,
    | 'commitLocal'
    | 'planRestore'
    | 'createContainer'
    | 'createCold'
    | 'startRestored'
    | 'planProcessRestore'
    | 'restoreProcess'
  >;
  readonly thaw: Pick<
    NodeControlActivities,
    | 'resumeContainer'
    | 'stopContainer'
    | 'endOperation'
    | 'discardCapture'
    | 'recordRehearsal'
    | 'releaseRestoreLease'
    | 'removeCopy'
  >;
  readonly transfer: Pick<TransferActivities, 'uploadImage' | 'publishManifest' | 'repairStored'>;
  readonly readback: Pick<VerifyActivities, 'verifyRemote'>;
  readonly survey: Pick<VerifyActivities, 'surveyStored' | 'surveyNodeCopy'>;
  readonly look: Pick<TransferActivities, 'prefetchPacks'>;
  readonly fetch: FetchActivities;
  readonly note: Pick<NodeControlActivities, 'confirmUpload'>;
  readonly undo: NodeControlActivities;
}

export function nodeProxies(scope: NodeScope): NodeProxies {
  const probe = proxyActivities<NodeControlActivities>(OPTION_CLASSES.probe(scope));
  const patient = <A extends object>(activities: A): A =>
    whileNodeAnswers(activities, () => probe.probeNode({}), scope.timeouts.stepMs);
  return {
    probe,
    preflight: proxyActivities<NodeControlActivities>(OPTION_CLASSES.preflight(scope)),
    capture: patient(proxyActivities<NodeActivities>(OPTION_CLASSES.capture(scope))),
    work: patient(proxyActivities<NodeActivities>(OPTION_CLASSES.work(scope))),
    thaw: proxyActivities<NodeControlActivities>(OPTION_CLASSES.thaw(scope)),
    transfer: proxyActivities<TransferActivities>(OPTION_CLASSES.transfer(scope)),
    readback: proxyActivities<VerifyActivities>(OPTION_CLASSES.readback(scope)),
    survey: patient(proxyActivities<VerifyActivities>(OPTION_CLASSES.survey(scope))),
    fetch: patient(proxyActivities<FetchActivities>(OPTION_CLASSES.fetch(scope))),
    look: whileNodeAnswers(
      proxyActivities<TransferActivities>(OPTION_CLASSES.look(scope)),
      async () => checkSidecar(await probe.probeNode({ store: true }), scope.node),
      scope.timeouts.stepMs,
    ),
    note: proxyActivities<NodeControlActivities>(OPTION_CLASSES.note(scope)),
    undo: proxyActivities<NodeControlActivities>(OPTION_CLASSES.compensate(scope)),
  };
}

export function controlProxy(summary: string): Omit<ControlActivities, 'requestLock'> {
  return proxyActivities<ControlActivities>(OPTION_CLASSES.control({ summary }));
}

export function garbageProxy(summary: string): GarbageActivities {
  return proxyActivities<GarbageActivities>(OPTION_CLASSES.catalog({ summary }));
}

/**
 * Asking for a lock is one call to Temporal that may be repeated. Made inside the workflow task, it saves every
 * operation a round trip through the server. It must not wait for other workflows, whose tasks need the same slots.
 */
export function lockProxy(summary: string): Pick<ControlActivities, 'requestLock'> {
  return proxyLocalActivities<ControlActivities>(lockOptions({ summary }));
}

/**
 * The work queues have few slots, and waiting for one looks to Temporal like a node that is gone. So a step that nobody
 * took is offered again as long as the node answers on its control queue, at most `patienceMs`.
 */
export function whileNodeAnswers<A extends object>(activities: A, ask: () => Promise<unknown>, patienceMs: number): A {
  const wrap =
    (step: (...args: unknown[]) => Promise<unknown>) =>
    async (...args: unknown[]) => {
      const startedMs = Date.now();
      for (;;) {
        try {
          return await step(...args);
        } catch (error) {
          if (!isPickupTimeout(error) || Date.now() - startedMs > patienceMs) {
            throw error;
          }
          await ask();
        }
      }
    };
  return new Proxy(activities, {
    get: (target, name) => wrap(Reflect.get(target, name) as (...args: unknown[]) => Promise<unknown>),
  });
}

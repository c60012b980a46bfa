/* A cluster and a Temporal for the controllers of the operator, in memory: literal objects, no API server. */
import type { OperationState, Operations } from '../../operator/operations.ts';
import type { Cluster } from '../../operator/cluster.ts';
import type { CheckpointObject, RestoreObject } from '../../operator/objects.ts';
import type { Pod } from '../../operator/plain.ts';
import type { ControllerDeps } from '../../operator/turn.ts';

export const UID = '11111111-2222-3333-4444-555555555555';
export const NOW = new Date('2026-11-22T04:00:00Z');

/** As a merge patch does it: null takes away. */
function merged<Status extends object>(before: Status | undefined, change: object): Status {
  return Object.fromEntries(Object.entries({ ...before, ...change }).filter(([, value]) => value !== null)) as Status;
}

export class OperatorWorld {
  checkpoint: CheckpointObject | undefined;
  restore: RestoreObject | undefined;
  readonly pods = new Map<string, Pod>();
  /** nodes of the cluster */
  nodes = ['node-a', 'node-b'];
  /** on which operations of a checkpoint ran */
  operationNodes: string[] = [];
  /** by workflow id */
  readonly states = new Map<string, OperationState>();
  /** workflow id and request, in order */
  readonly started: Array<readonly [string, object]> = [];
  readonly cancelled: string[] = [];
  /** names of pods */
  readonly deleted: string[] = [];
  now = NOW;

  readonly cluster: Cluster = {
    pod: (_namespace, name) => Promise.resolve(this.pods.get(name)),
    createPod: (_namespace, pod) => {
      const name = pod.metadata?.name ?? '';
      if (this.pods.has(name)) {
        return Promise.resolve(undefined);
      }
      const made = { ...pod, metadata: { ...pod.metadata, uid: 'pod-uid' } };
      this.pods.set(name, made);
      return Promise.resolve(made);
    },
    deletePod: ({ metadata }) => {
      this.deleted.push(metadata?.name ?? '');
      return Promise.resolve();
    },
    checkpoint: () => Promise.resolve(this.checkpoint),
    restores: () => Promise.resolve(this.restore === undefined ? [] : [this.restore]),
    hasNode: (name) => Promise.resolve(this.nodes.includes(name)),
    patchStatus: ({ kind }, status) => {
      if (kind === 'Checkpoint' && this.checkpoint !== undefined) {
        this.checkpoint = { ...this.checkpoint, status: merged(this.checkpoint.status, status) };
      } else if (this.restore !== undefined) {
        this.restore = { ...this.restore, status: merged(this.restore.status, status) };
      }
      return Promise.resolve();
    },
    setFinalizers: ({ kind }, finalizers) => {
      if (kind === 'Checkpoint' && this.checkpoint !== undefined) {
        const metadata = { ...this.checkpoint.metadata, finalizers: [...finalizers] };
        this.checkpoint = { ...this.checkpoint, metadata };
      } else if (this.restore !== undefined) {
        this.restore = { ...this.restore, metadata: { ...this.restore.metadata, finalizers: [...finalizers] } };
      }
      return Promise.resolve();
    },
  };

  readonly #start = (workflowId: string, request: object): Promise<void> => {
    this.started.push([workflowId, request]);
    this.states.set(workflowId, { state: 'running', step: 'probing' });
    return Promise.resolve();
  };

  readonly operations: Operations = {
    startCheckpoint: this.#start,
    startImport: this.#start,
    startDelete: this.#start,
    startInspect: this.#start,
    look: (workflowId) => Promise.resolve(this.states.get(workflowId) ?? { state: 'unknown' }),
    cancel: (workflowId) => {
      this.cancelled.push(workflowId);
      this.states.set(workflowId, { state: 'cancelled', committed: false });
      return Promise.resolve();
    },
    nodesOf: () => Promise.resolve(this.operationNodes),
  };

  get deps(): ControllerDeps {
    return { cluster: this.cluster, operations: this.operations, now: () => this.now };
  }
}

/** As the API server stores it. */
export function newObject(spec: object, metadata: object = {}): { metadata: object; spec: object } {
  return {
    metadata: { namespace: 'ml', name: 'nightly', uid: UID, generation: 1, creationTimestamp: NOW, ...metadata },
    spec,
  };
}

/** On node-a. */
export function runningPod(name: string, containers: readonly string[] = ['app']): Pod {
  return {
    metadata: { name, uid: 'u', labels: { app: 'x' }, annotations: { note: 'kept' } },
    spec: {
      nodeName: 'node-a',
      containers: containers.map((one) => ({
        name: one,
        image: 'i',
        volumeMounts: [
          { name: 'kube-api-access-abcde', mountPath: '/token' },
          { name: 'data', mountPath: '/data' },
        ],
      })),
      volumes: [{ name: 'kube-api-access-abcde' }, { name: 'data', emptyDir: {} }],
    },
    status: {
      phase: 'Running',
      containerStatuses: containers.map((one) => ({
        name: one,
        image: 'i',
        imageID: '',
        ready: true,
        restartCount: 0,
        state: { running: {} },
      })),
    },
  };
}

import { beforeEach, describe, expect, it } from 'vitest';
import type { CheckpointRequest, CheckpointResult } from '../core/contract/checkpoint.ts';
import { newObject, NOW, runningPod, UID } from '../test/harness/operator-world.ts';
import { handleCheckpoint } from './checkpoint-controller.ts';
import type { Cluster } from './cluster.ts';
import { FINALIZER, type CheckpointObject, type RestoreObject } from './objects.ts';
import type { OperationState, Operations } from './operations.ts';
import type { Pod } from './plain.ts';
import { RESTORE_LABEL } from './pods.ts';
import { handleRestore } from './restore-controller.ts';

let checkpoint: CheckpointObject | undefined;
let restore: RestoreObject;
let pods: Map<string, Pod>;
let state: OperationState;
let started: Array<readonly [string, CheckpointRequest]>;
let cancelled: string[];
let deleted: string[];

const cluster: Cluster = {
  pod: (_namespace, name) => Promise.resolve(pods.get(name)),
  createPod: (_namespace, pod) => {
    const name = pod.metadata?.name ?? '';
    if (pods.has(name)) {
      return Promise.resolve(undefined);
    }
    const made = { ...pod, metadata: { ...pod.metadata, uid: 'pod-uid' } };
    pods.set(name, made);
    return Promise.resolve(made);
  },
  deletePod: ({ metadata }) => {
    deleted.push(metadata?.name ?? '');
    return Promise.resolve();
  },
  checkpoint: () => Promise.resolve(checkpoint),
  restores: () => Promise.resolve([restore]),
  hasNode: () => Promise.resolve(true),
  patchStatus: ({ kind }, status) => {
    // As a merge patch does it: null takes away.
    const merge = <Status extends object>(before: Status | undefined): Status =>
      Object.fromEntries(Object.entries({ ...before, ...status }).filter(([, value]) => value !== null)) as Status;
    if (kind === 'Checkpoint' && checkpoint !== undefined) {
      checkpoint = { ...checkpoint, status: merge(checkpoint.status as object | undefined) as never };
    } else {
      restore = { ...restore, status: merge(restore.status as object | undefined) as never };
    }
    return Promise.resolve();
  },
  setFinalizers: ({ kind }, finalizers) => {
    if (kind === 'Checkpoint' && checkpoint !== undefined) {
      checkpoint = { ...checkpoint, metadata: { ...checkpoint.metadata, finalizers: [...finalizers] } };
    } else {
      restore = { ...restore, metadata: { ...restore.metadata, finalizers: [...finalizers] } };
    }
    return Promise.resolve();
  },
};

const operations: Operations = {
  startCheckpoint: (workflowId, request) => {
    started.push([workflowId, request]);
    state = { state: 'running', step: 'probing' };
    return Promise.resolve();
  },
  startImport: () => Promise.resolve(),
  startDelete: () => Promise.resolve(),
  startInspect: () => Promise.resolve(),
  nodesOf: () => Promise.resolve([]),
  look: () => Promise.resolve(state),
  cancel: (workflowId) => {
    cancelled.push(workflowId);
    state = { state: 'cancelled' };
    return Promise.resolve();
  },
};

const deps = { cluster, operations, now: () => NOW };

const turn = (): Promise<number | undefined> => handleCheckpoint(deps, checkpoint ?? {});

beforeEach(() => {
  checkpoint = newObject({ pod: 'llm' });
  restore = newObject({ checkpoint: 'nightly' }, { name: 'llm-b' });
  pods = new Map([['llm', runningPod('llm')]]);
  state = { state: 'unknown' };
  started = [];
  cancelled = [];
  deleted = [];
});

describe('a Checkpoint', () => {
  it('starts one workflow, named after its uid, of the only container of its pod', async () => {
    await turn();
    await turn();

    expect(started.map(([id]) => id)).toEqual([`checkpoint:kubernetes:${UID}`]);
    expect(started[0]?.[1]).toMatchObject({
      node: 'node-a',
      container: { pod: { namespace: 'ml', name: 'llm', container: 'app' } },
      checkpointId: 'ml-nightly-11111111',
    });
    expect(checkpoint?.metadata?.finalizers).toEqual([FINALIZER]);
    expect(checkpoint?.status).toMatchObject({ phase: 'Running', step: 'probing', node: 'node-a', container: 'app' });
  });

  it.each([
    ['the liveness probe of its container', true, { periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 3 }],
    ['its startup probe as long as it starts', false, { periodSeconds: 10, timeoutSeconds: 1, failureThreshold: 30 }],
  ])('tells the workflow of %s', async (_which, hasStarted, livenessProbe) => {
    const pod = runningPod('llm');
    const probes = { livenessProbe: { periodSeconds: 5 }, startupProbe: { failureThreshold: 30 } };
    pods.set('llm', {
      ...pod,
      spec: { ...pod.spec, containers: (pod.spec?.containers ?? []).map((one) => ({ ...one, ...probes })) },
      status: {
        ...pod.status,
        containerStatuses: (pod.status?.containerStatuses ?? []).map((one) => ({ ...one, started: hasStarted })),
      },
    });

    await turn();

    expect(started[0]?.[1]).toMatchObject({ livenessProbe });
    expect(started[0]?.[1]).not.toHaveProperty('freezeBudgetMs');
  });

  it('tells the workflow which volumes are captured, where the object names them', async () => {
    checkpoint = newObject({ pod: 'llm', captureVolumes: ['cache', '/dev/shm'] });

    await turn();

    expect(started[0]?.[1]).toMatchObject({ captureVolumes: ['cache', '/dev/shm'] });
  });

  it('keeps a template of its pod without its node and its token', async () => {
    await turn();

    const { spec } = (checkpoint?.status?.podTemplate ?? {}) as Pod;
    expect(spec?.nodeName).toBeUndefined();
    expect(spec?.volumes).toEqual([{ name: 'data', emptyDir: {} }]);
    expect(spec?.containers[0]?.volumeMounts).toEqual([{ name: 'data', mountPath: '/data' }]);
  });

  it.each([
    ['a Deployment', 'ReplicaSet', { 'pod-template-hash': 'a1' }, { app: 'x' }],
    ['a Job', 'Job', { 'batch.kubernetes.io/controller-uid': 'a1', 'job-name': 'j' }, { app: 'x' }],
    ['a StatefulSet', 'StatefulSet', { 'apps.kubernetes.io/pod-index': '0' }, { app: 'x' }],
    ['a DaemonSet', 'DaemonSet', { 'controller-revision-hash': 'a1' }, {}],
    ['nobody', undefined, {}, { app: 'x' }],
  ])(
    'keeps no label by which the controller would take its copy for one of its own: %s',
    async (_, kind, more, kept) => {
      const pod = runningPod('llm');
      const owner = { apiVersion: 'v1', name: 'o', uid: 'o', controller: true };
      const ownerReferences = kind === undefined ? [] : [{ ...owner, kind }];
      pods.set('llm', { ...pod, metadata: { ...pod.metadata, labels: { app: 'x', ...more }, ownerReferences } });

      await turn();

      expect((checkpoint?.status?.podTemplate as Pod | undefined)?.metadata?.labels).toEqual(kept);
    },
  );

  it('waits for its pod, and fails when that does not come in time', async () => {
    pods.clear();

    expect(await turn()).toBeGreaterThan(0);
    expect(checkpoint?.status?.phase).toBe('Pending');
    const late = { ...deps, now: () => new Date(NOW.getTime() + 301_000) };
    expect(await handleCheckpoint(late, checkpoint ?? {})).toBeUndefined();

    expect(checkpoint?.status).toMatchObject({ phase: 'Failed', conditions: [{ reason: 'ContainerNotFound' }] });
    expect(started).toEqual([]);
  });

  it('fails when the container is one of several and not named', async () => {
    pods.set('llm', runningPod('llm', ['app', 'proxy']));

    await turn();

    expect(checkpoint?.status?.conditions?.[0]).toMatchObject({
      status: 'False',
      reason: 'InvalidInput',
      message: expect.stringContaining('app, proxy') as string,
    });
  });

  it('tells the error type of a workflow that failed, and is not tried again', async () => {
    state = { state: 'failed', type: 'DiskFull', message: 'no room' };

    await turn();
    state = { state: 'unknown' };
    await turn();

    expect(checkpoint?.status).toMatchObject({
      phase: 'Failed',
      conditions: [{ reason: 'DiskFull', message: 'no room' }],
    });
    expect(started).toEqual([]);
  });

  it('whose workflow Temporal has forgotten is not begun once more', async () => {
    await turn();
    state = { state: 'unknown' };

    await turn();

    expect(started).toHaveLength(1);
    expect(checkpoint?.status).toMatchObject({ phase: 'Failed', conditions: [{ reason: 'CheckpointNotFound' }] });
  });

  it('is not written again while nothing changes, in whatever order its fields come back', async () => {
    await turn();
    await turn();
    const sorted = (value: unknown): unknown =>
      Array.isArray(value)
        ? value.map(sorted)
        : typeof value === 'object' && value !== null
          ? Object.fromEntries(
              Object.entries(value)
                .sort(([left], [right]) => left.localeCompare(right))
                .map(([name, one]) => [name, sorted(one)]),
            )
          : value;
    const again = { ...checkpoint, status: sorted(checkpoint?.status) } as CheckpointObject;
    let writes = 0;
    const patchStatus = (): Promise<void> => Promise.resolve(void (writes += 1));

    await handleCheckpoint({ ...deps, cluster: { ...cluster, patchStatus } }, again);

    expect(writes).toBe(0);
  });

  it('is ready with what the workflow found', async () => {
    await turn();
    const result = { checkpointId: 'c', node: 'node-a', freezeMs: 12.34, bytes: { total: 5, stored: 3 } };
    const rest = { gpuProcesses: 0, warnings: [], source: 'running', durability: 'remote', remote: 's3://b/c' };
    state = { state: 'completed', result: { ...result, ...rest } as unknown as CheckpointResult };

    expect(await turn()).toBeUndefined();

    expect(checkpoint?.status).toMatchObject({ phase: 'Ready', freezeMs: 12.3, totalBytes: 5, remote: 's3://b/c' });
    expect(checkpoint?.status).not.toHaveProperty('step');
    expect(checkpoint?.status?.conditions?.[0]?.status).toBe('True');
  });

  it('that is deleted cancels its workflow, and goes when that has ended', async () => {
    await turn();
    checkpoint = { ...checkpoint, metadata: { ...checkpoint?.metadata, deletionTimestamp: NOW } };

    expect(await turn()).toBeGreaterThan(0);
    expect(checkpoint.metadata?.finalizers).toEqual([FINALIZER]);
    await turn();

    expect(cancelled).toEqual([`checkpoint:kubernetes:${UID}`]);
    expect(checkpoint.metadata?.finalizers).toEqual([]);
  });
});

describe('a Restore', () => {
  const ready = { phase: 'Ready', checkpointId: 'ck', container: 'app', gpuProcesses: 1 } as const;
  const restoreTurn = (): Promise<number | undefined> => handleRestore(deps, restore);

  it('waits until its checkpoint is ready', async () => {
    expect(await restoreTurn()).toBeGreaterThan(0);

    expect(restore.status).toMatchObject({ phase: 'Pending', conditions: [{ reason: 'CheckpointNotReady' }] });
  });

  it('makes one pod like the source, which names the checkpoint', async () => {
    checkpoint = { ...checkpoint, status: { ...ready, podTemplate: { spec: { containers: [{ name: 'app' }] } } } };

    await restoreTurn();
    await restoreTurn();

    const pod = pods.get('llm-b');
    expect(pod?.metadata?.annotations).toMatchObject({ 'kybernate.io/restore-from.app': 'ck' });
    expect(pod?.spec?.runtimeClassName).toBe('kybernate-gpu');
    expect(restore.status).toMatchObject({ phase: 'Restoring', pod: 'llm-b', podUid: 'pod-uid' });
  });

  it('leaves a pod of the same name alone that is not its own', async () => {
    pods.set('llm-b', runningPod('llm-b'));

    await restoreTurn();

    expect(restore.status).toMatchObject({ phase: 'Failed', conditions: [{ reason: 'InvalidInput' }] });
  });

  it.each([
    ['fails at once when another attempt would fare no better', 'RestoreRefused of another namespace', 'Failed'],
    ['goes on when the kubelet will try again', 'StorageUnavailable the store is away', 'Restoring'],
  ])('%s', async (_fact, message, phase) => {
    const pod = runningPod('llm-b');
    const waiting = { name: 'app', image: 'i', imageID: '', ready: false, restartCount: 1 };
    pods.set('llm-b', {
      ...pod,
      metadata: { ...pod.metadata, labels: { [RESTORE_LABEL]: UID } },
      status: { containerStatuses: [{ ...waiting, state: { waiting: { reason: 'RunContainerError', message } } }] },
    });

    await restoreTurn();

    expect(restore.status?.phase).toBe(phase);
  });

  describe('that is deleted', () => {
    const remove = (status: RestoreObject['status']): void => {
      const metadata = { ...restore.metadata, finalizers: [FINALIZER], deletionTimestamp: NOW };
      restore = { ...restore, metadata, ...(status === undefined ? {} : { status }) };
    };
    const own = (state: object): void => {
      const pod = runningPod('llm-b');
      const container = { name: 'app', image: 'i', imageID: '', ready: false, restartCount: 0, state };
      pods.set('llm-b', {
        ...pod,
        metadata: { ...pod.metadata, labels: { [RESTORE_LABEL]: UID } },
        status: { containerStatuses: [container] },
      });
    };

    it('takes its pod with it while the container does not run', async () => {
      own({ waiting: { reason: 'ContainerCreating' } });
      remove({ phase: 'Restoring', pod: 'llm-b', podUid: 'pod-uid' });

      await restoreTurn();

      expect(deleted).toEqual(['llm-b']);
      expect(restore.metadata?.finalizers).toEqual([]);
    });

    it.each(['Restoring', 'Failed'] as const)('leaves a container alone that runs by now, in %s', async (phase) => {
      own({ running: {} });
      remove({ phase, pod: 'llm-b', podUid: 'pod-uid', container: 'app' });

      await restoreTurn();

      expect(deleted).toEqual([]);
      expect(restore.metadata?.finalizers).toEqual([]);
    });

    it('finds the pod that an operator made which died before it could note that', async () => {
      own({ waiting: { reason: 'ContainerCreating' } });
      remove(undefined);

      await restoreTurn();

      expect(deleted).toEqual(['llm-b']);
    });

    it('leaves a pod of the same name alone that is not its own', async () => {
      pods.set('llm-b', { ...runningPod('llm-b'), status: {} });
      remove({ phase: 'Restoring', pod: 'llm-b', podUid: 'pod-uid' });

      await restoreTurn();

      expect(deleted).toEqual([]);
    });
  });
});

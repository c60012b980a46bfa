import { beforeEach, describe, expect, it } from 'vitest';
import type { ImportCheckpointResult } from '../core/contract/import-checkpoint.ts';
import type { KubernetesCheckpointStatus } from '../core/contract/kubernetes.ts';
import { NOW, newObject, OperatorWorld, UID } from '../test/harness/operator-world.ts';
import { handleCheckpoint } from './checkpoint-controller.ts';
import { FINALIZER } from './objects.ts';

const CHECKPOINT = `checkpoint:kubernetes:${UID}`;
const IMPORT = `importCheckpoint:kubernetes:${UID}`;
const DELETE = `deleteCheckpoint:kubernetes:${UID}`;
const READY = { phase: 'Ready', checkpointId: 'ck', node: 'node-a', owned: true } as const;

let world: OperatorWorld;

const turn = (): Promise<number | undefined> => handleCheckpoint(world.deps, world.checkpoint ?? {});
const isGone = (): boolean => world.checkpoint?.metadata?.finalizers?.length === 0;

beforeEach(() => {
  world = new OperatorWorld();
});

/** Somebody has asked for its deletion. */
function deleted(spec: object, status: KubernetesCheckpointStatus): void {
  world.checkpoint = {
    ...newObject(spec, { finalizers: [FINALIZER], deletionTimestamp: NOW }),
    status,
  };
}

describe('a Checkpoint that is deleted', () => {
  it('leaves its checkpoint alone unless it says otherwise', async () => {
    deleted({ pod: 'llm' }, READY);

    expect(await turn()).toBeUndefined();

    expect(isGone()).toBe(true);
    expect(world.started).toEqual([]);
  });

  it('with the policy Delete stays until the workflow has removed its checkpoint', async () => {
    deleted({ pod: 'llm', deletionPolicy: 'Delete' }, READY);

    expect(await turn()).toBeGreaterThan(0);
    expect(await turn()).toBeGreaterThan(0);
    expect(world.started).toEqual([[DELETE, { checkpointId: 'ck', nodes: ['node-a'] }]]);
    expect(world.checkpoint?.status).toMatchObject({
      phase: 'Deleting',
      conditions: [{ status: 'False', reason: 'Deleting' }],
    });
    expect(isGone()).toBe(false);
    world.states.set(DELETE, { state: 'completed', result: {} });
    expect(await turn()).toBeUndefined();

    expect(isGone()).toBe(true);
  });

  it('has copies removed from all nodes that were concerned with it and are still there', async () => {
    world.operationNodes = ['node-b', 'node-gone', 'control'];
    deleted({ pod: 'llm', deletionPolicy: 'Delete' }, READY);

    await turn();

    expect(world.started).toEqual([[DELETE, { checkpointId: 'ck', nodes: ['node-a', 'node-b'] }]]);
  });

  it('tells what is in the way, and tries again later', async () => {
    deleted({ pod: 'llm', deletionPolicy: 'Delete' }, READY);
    const message = 'checkpoint ck was not removed: it is being restored on this node';
    world.states.set(DELETE, { state: 'failed', type: 'CheckpointInUse', message, endedAt: NOW });

    expect(await turn()).toBeGreaterThan(5000);
    expect(world.checkpoint?.status?.conditions).toMatchObject([{ reason: 'CheckpointInUse', message }]);
    expect(world.started).toEqual([]);
    world.now = new Date(NOW.getTime() + 10_000);
    await turn();

    expect(world.started.map(([id]) => id)).toEqual([DELETE]);
    expect(world.checkpoint?.status?.conditions).toMatchObject([{ reason: 'CheckpointInUse' }]);
    expect(isGone()).toBe(false);
  });

  it('waits for a Restore of it that is under way, whose pod has perhaps no node yet', async () => {
    deleted({ pod: 'llm', deletionPolicy: 'Delete' }, READY);
    world.restore = {
      ...newObject({ checkpoint: 'nightly' }, { name: 'llm-b' }),
      status: { phase: 'Restoring', checkpointId: 'ck' },
    };

    await turn();
    expect(world.started).toEqual([]);
    expect(world.checkpoint?.status?.conditions).toMatchObject([
      { reason: 'CheckpointInUse', message: expect.stringContaining('restore llm-b is under way') },
    ]);
    world.restore = { ...world.restore, status: { phase: 'Ready', checkpointId: 'ck' } };
    await turn();

    expect(world.started.map(([id]) => id)).toEqual([DELETE]);
  });

  it('is let go when its policy becomes Retain while it waits', async () => {
    deleted({ pod: 'llm', deletionPolicy: 'Retain' }, { ...READY, phase: 'Deleting' });
    world.states.set(DELETE, { state: 'running' });

    expect(await turn()).toBeUndefined();

    expect(world.cancelled).toEqual([DELETE]);
    expect(isGone()).toBe(true);
  });

  it('never removes the checkpoint of another at whose id it has failed', async () => {
    deleted({ pod: 'llm', checkpointId: 'ck', deletionPolicy: 'Delete' }, { phase: 'Failed', checkpointId: 'ck' });
    world.states.set(CHECKPOINT, { state: 'failed', type: 'InvalidInput', message: 'it is there', committed: false });

    expect(await turn()).toBeUndefined();

    expect(world.started).toEqual([]);
    expect(isGone()).toBe(true);
  });

  it('removes what it has committed though it failed or was cancelled behind that', async () => {
    deleted({ pod: 'llm', deletionPolicy: 'Delete' }, { phase: 'Cancelled', checkpointId: 'ck', node: 'node-a' });
    world.states.set(CHECKPOINT, { state: 'cancelled', committed: true });

    await turn();

    expect(world.started.map(([id]) => id)).toEqual([DELETE]);
  });

  it('does not guess while nobody can say whether it has committed anything', async () => {
    deleted({ pod: 'llm', deletionPolicy: 'Delete' }, { phase: 'Cancelled', checkpointId: 'ck' });
    world.states.set(CHECKPOINT, { state: 'cancelled' });

    expect(await turn()).toBeGreaterThan(0);

    expect(world.checkpoint?.status?.conditions).toMatchObject([{ reason: 'NodeUnavailable' }]);
    expect(isGone()).toBe(false);
  });
});

describe('a Checkpoint of an archive', () => {
  const archive = '/var/lib/kubelet/checkpoints/checkpoint-web-0_ml-app-2026-03-01T00:00:00Z.tar';
  const source = { node: 'node-b', archive };
  const imported: ImportCheckpointResult = {
    checkpointId: 'ml-nightly-11111111',
    node: 'node-b',
    localPath: '/c',
    totalBytes: 5,
    storedBytes: 3,
    created: true,
    pod: { namespace: 'ml', name: 'web-0', container: 'app' },
    durability: 'remote',
    remote: 's3://b/c',
    warnings: ['no descriptors'],
  };

  it('is imported on its node, as one of a pod of its own namespace', async () => {
    world.checkpoint = newObject({ source, labels: { team: 'x' } });

    await turn();

    expect(world.started).toEqual([
      [
        IMPORT,
        {
          ...source,
          checkpointId: 'ml-nightly-11111111',
          podNamespace: 'ml',
          durability: 'remote',
          labels: { team: 'x' },
        },
      ],
    ]);
    expect(world.checkpoint.status).toMatchObject({ phase: 'Running', workflowId: IMPORT, node: 'node-b' });
  });

  it('is ready with what was found in the archive', async () => {
    world.checkpoint = newObject({ source });
    world.states.set(IMPORT, { state: 'completed', result: imported });

    expect(await turn()).toBeUndefined();

    expect(world.checkpoint.status).toMatchObject({
      phase: 'Ready',
      container: 'app',
      totalBytes: 5,
      remote: 's3://b/c',
      owned: true,
      conditions: [{ status: 'True', message: 'remote; imported; no descriptors' }],
    });
  });

  it('does not own what was there before', async () => {
    world.checkpoint = newObject({ source, deletionPolicy: 'Delete' });
    world.states.set(IMPORT, { state: 'completed', result: { ...imported, created: false } });
    await turn();
    const { status } = world.checkpoint;
    deleted({ source, deletionPolicy: 'Delete' }, status ?? { phase: 'Ready' });

    expect(await turn()).toBeUndefined();

    expect(status).toMatchObject({ owned: false });
    expect(world.started).toEqual([]);
    expect(isGone()).toBe(true);
  });

  it.each<[string, object]>([
    ['both', { pod: 'llm', source }],
    ['neither', {}],
  ])('is refused with a pod and a source: %s', async (_what, spec) => {
    world.checkpoint = newObject(spec);

    await turn();

    expect(world.checkpoint.status).toMatchObject({ phase: 'Failed', conditions: [{ reason: 'InvalidInput' }] });
  });
});

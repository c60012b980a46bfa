import { beforeEach, describe, expect, it } from 'vitest';
import type { InspectRestoreResult } from '../core/contract/inspect-restore.ts';
import { NOW, newObject, OperatorWorld, runningPod, UID } from '../test/harness/operator-world.ts';
import { RESTORE_LABEL } from './pods.ts';
import { handleRestore } from './restore-controller.ts';

let world: OperatorWorld;

const restoreTurn = (): Promise<number | undefined> => handleRestore(world.deps, world.restore ?? {});

describe('a Restore whose pod is ready', () => {
  const INSPECT = `inspectRestore:kubernetes:${UID}`;
  const answers = (outcome?: InspectRestoreResult['outcome']): void => {
    const result: InspectRestoreResult = { node: 'node-a', ...(outcome === undefined ? {} : { outcome }) };
    world.states.set(INSPECT, { state: 'completed', result });
  };

  beforeEach(() => {
    world = new OperatorWorld();
    world.restore = newObject({ checkpoint: 'nightly' }, { name: 'llm-b' });
    const pod = runningPod('llm-b');
    world.pods.set('llm-b', {
      ...pod,
      metadata: { ...pod.metadata, labels: { [RESTORE_LABEL]: UID } },
      status: { ...pod.status, conditions: [{ type: 'Ready', status: 'True', lastTransitionTime: NOW }] },
    });
  });

  it('asks its node how the container began before it is ready itself', async () => {
    expect(await restoreTurn()).toBeGreaterThan(0);

    expect(world.started).toEqual([[INSPECT, { node: 'node-a', pod: { uid: 'u', container: 'app' } }]]);
    expect(world.restore?.status).toMatchObject({ phase: 'Restoring', conditions: [{ status: 'False' }] });
  });

  it('is ready and restored when the node says so', async () => {
    answers({ how: 'restored', restoreFrom: 'ck', at: NOW.toISOString() });

    expect(await restoreTurn()).toBeUndefined();

    expect(world.restore?.status).toMatchObject({
      phase: 'Ready',
      how: 'restored',
      node: 'node-a',
      conditions: [{ status: 'True', reason: 'Restored', message: 'pod llm-b is ready, restored from ck' }],
    });
  });

  it('is ready and told apart when the container was started afresh, with the reason', async () => {
    answers({ how: 'cold-started', restoreFrom: 'ck', at: NOW.toISOString(), reason: 'the store is away' });

    await restoreTurn();

    expect(world.restore?.status).toMatchObject({
      phase: 'Ready',
      how: 'cold-started',
      conditions: [{ status: 'True', reason: 'ColdStarted' }],
    });
    expect(world.restore?.status?.conditions?.[0]?.message).toContain('the store is away');
  });

  it('has failed when nobody has even tried to restore it', async () => {
    answers();

    await restoreTurn();

    expect(world.restore?.status).toMatchObject({ phase: 'Failed', conditions: [{ reason: 'RestoreFailed' }] });
    expect(world.restore?.status).not.toHaveProperty('how');
  });

  it('is asked again while its node is away, and is ready without an answer after a minute', async () => {
    world.states.set(INSPECT, { state: 'failed', type: 'NodeUnavailable', message: 'nobody took it' });

    expect(await restoreTurn()).toBeGreaterThan(0);
    expect(world.started.map(([id]) => id)).toEqual([INSPECT]);
    world.states.set(INSPECT, { state: 'failed', type: 'NodeUnavailable', message: 'nobody took it' });
    world.now = new Date(NOW.getTime() + 61_000);
    expect(await restoreTurn()).toBeUndefined();

    expect(world.restore?.status).toMatchObject({
      phase: 'Ready',
      conditions: [{ status: 'True', reason: 'OutcomeUnknown' }],
    });
    expect(world.restore?.status).not.toHaveProperty('how');
  });
});

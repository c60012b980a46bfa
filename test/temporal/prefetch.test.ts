import { Context } from '@temporalio/activity';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { PrefetchResult } from '../../core/contract/prefetch.ts';
import { nodeControlQueue } from '../../core/task-queues.ts';
import { fails, nodeQueues, openHarness, outcomeOf, stepsOf, untilCancelled, type Harness } from './harness.ts';
import type { Script } from './harness.ts';
import { NODE, TIMEOUTS } from './requests.ts';

const OTHER = 'node-b';
let harness: Harness;
let stopOther: () => Promise<void>;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
  stopOther = await harness.serve(nodeQueues(OTHER));
});
afterAll(async () => {
  await stopOther();
  await harness.close();
});

/** Runs the script on one node only. */
function on(node: string, script: Script): Script {
  return (input, happy) => (Context.current().info.taskQueue.includes(`-${node}-`) ? script(input, happy) : happy());
}

describe('prefetch', () => {
  it('asks all nodes at once and tells what each has', async () => {
    const handle = await harness.prefetch('prefetch-all', {}, { nodes: [NODE, OTHER], tier: 'ram' });

    const done = { outcome: 'done', bytes: 1000, presentBytes: 200, from: { store: 800 }, seconds: 0.5 };
    expect(await handle.result()).toEqual({
      checkpointId: 'ck-prefetch-all',
      tier: 'ram',
      nodes: [
        { node: NODE, ...done },
        { node: OTHER, ...done },
      ],
    });
    expect((await stepsOf(handle)).sort()).toEqual(['prefetchPacks', 'prefetchPacks', 'probeNode', 'probeNode']);
  });

  it('tells a node that fails, and the others have the checkpoint', async () => {
    const steps = { prefetchPacks: on(OTHER, fails('DiskFull')) };
    const handle = await harness.prefetch('prefetch-partial', { steps }, { nodes: [NODE, OTHER] });

    const { nodes } = (await handle.result()) as PrefetchResult;

    expect(nodes).toMatchObject([
      { node: NODE, outcome: 'done', bytes: 1000 },
      { node: OTHER, outcome: 'failed', error: { type: 'DiskFull' } },
    ]);
    const { typedSearchAttributes } = await handle.describe();
    expect(JSON.stringify(typedSearchAttributes)).toContain('Partial');
  });

  it('says what to start when no sidecar takes the step', async () => {
    const probeNode: Script = async (_input, happy) => {
      const { store: _store, ...probe } = (await happy()) as { store?: string };
      return probe;
    };
    const stop = await harness.serve([nodeControlQueue('node-alone')]);
    const timeouts = { ...TIMEOUTS, nodePickupMs: 2000 };

    const handle = await harness.prefetch(
      'prefetch-alone',
      { steps: { probeNode } },
      { nodes: ['node-alone'], timeouts },
    );

    expect(await outcomeOf(handle)).toMatchObject({
      type: 'NodeUnavailable',
      message: expect.stringContaining('start `kybernate sidecar` there') as string,
    });
    await stop();
  });

  it('tells a node that is away as NodeUnavailable', async () => {
    const handle = await harness.prefetch('prefetch-away', {}, { nodes: ['node-gone', NODE] });

    const { nodes } = (await handle.result()) as PrefetchResult;

    expect(nodes).toMatchObject([
      { node: 'node-gone', outcome: 'failed', error: { type: 'NodeUnavailable' } },
      { node: NODE, outcome: 'done' },
    ]);
  });

  it('fails with the error of the first node when all fail', async () => {
    const steps = { prefetchPacks: fails('CheckpointNotFound') };
    const handle = await harness.prefetch('prefetch-none', { steps }, { nodes: [NODE, OTHER] });

    expect(await outcomeOf(handle)).toMatchObject({
      type: 'CheckpointNotFound',
      details: { nodes: [{ node: NODE }, { node: OTHER }] },
    });
  });

  it('is cancelled on all nodes before it ends', async () => {
    const reached = harness.reached('prefetch-cancelled', 'prefetchPacks');
    const steps = { prefetchPacks: untilCancelled };
    const handle = await harness.prefetch('prefetch-cancelled', { steps }, { nodes: [NODE, OTHER] });
    await reached;

    await handle.cancel();

    expect(await outcomeOf(handle)).toMatchObject({ type: 'Cancelled' });
  });

  it('to local fetches as a restore does, and gives the lease back', async () => {
    const steps = { resolveLocal: () => Promise.resolve({}) };
    const handle = await harness.prefetch('prefetch-local', { steps }, { tier: 'local' });

    expect(await handle.result()).toMatchObject({
      tier: 'local',
      nodes: [{ node: NODE, outcome: 'done', bytes: 1000, presentBytes: 0, from: { store: 1000 } }],
    });
    expect(await stepsOf(handle)).toEqual(['probeNode', 'resolveLocal', 'fetchImage', 'releaseRestoreLease']);
  });

  it.each([
    ['fails', fails('CheckpointCorrupt'), { type: 'CheckpointCorrupt' }],
    ['is cancelled', untilCancelled, { type: 'Cancelled' }],
  ])('to local gives the lease back when the fetch %s', async (name, fetchImage, outcome) => {
    const id = `prefetch-local-${name.replace(' ', '-')}`;
    const reached = harness.reached(id, 'fetchImage');
    const handle = await harness.prefetch(id, { steps: { fetchImage } }, { tier: 'local' });
    await reached;
    await (outcome.type === 'Cancelled' ? handle.cancel() : undefined);

    expect(await outcomeOf(handle)).toMatchObject(outcome);
    expect((await stepsOf(handle)).at(-1)).toBe('releaseRestoreLease');
  });

  it.each([
    ['no node', { nodes: [] }, 'nodes'],
    ['a node twice', { nodes: [NODE, NODE] }, 'nodes'],
    ['a pin of files', { tier: 'local', pin: {} }, 'pin'],
  ] as const)('refuses %s', async (name, request, field) => {
    const id = `prefetch-refused-${name.replaceAll(' ', '-')}`;
    const handle = await harness.prefetch(
      id,
      {},
      { ...request, nodes: [...('nodes' in request ? request.nodes : [NODE])] },
    );

    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({ type: 'InvalidInput' });
    expect('message' in outcome ? outcome.message : '').toContain(field);
    expect(await stepsOf(handle)).toEqual([]);
  });
});

/* The workflows `deleteCheckpoint`, `importCheckpoint` and `inspectRestore`: which steps follow, and what they end with. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import type { DeleteCheckpointRequest } from '../../core/contract/delete-checkpoint.ts';
import type { ImportCheckpointRequest } from '../../core/contract/import-checkpoint.ts';
import '../harness/provided.ts';
import { fails, nodeQueues, openHarness, outcomeOf, stepsOf, type Harness, type Scenario } from './harness.ts';
import { ARCHIVE, NODE, TIMEOUTS } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
});
afterAll(() => harness.close());

type Handle = Awaited<ReturnType<Harness['start']>>;

function remove(
  id: string,
  steps: Scenario['steps'] = {},
  request: Partial<DeleteCheckpointRequest> = {},
): Promise<Handle> {
  return harness.start(
    'deleteCheckpoint',
    id,
    { steps },
    { checkpointId: 'ck-1', nodes: [NODE], timeouts: TIMEOUTS, ...request },
  );
}

async function outcomeAttribute(handle: Handle): Promise<unknown> {
  const { typedSearchAttributes } = await handle.describe();
  return typedSearchAttributes.getAll().find(({ key }) => key.name === 'KybernateOutcome')?.value;
}

describe('deleteCheckpoint', () => {
  it.concurrent('asks the node, then removes from the store and from the node', async () => {
    const handle = await remove('delete-both');

    expect(await outcomeOf(handle)).toEqual({
      result: {
        checkpointId: 'ck-1',
        store: { found: true, freedBytes: 900, keptPacks: 1 },
        nodes: [{ node: NODE, found: true }],
      },
    });
    expect(await stepsOf(handle)).toEqual(['checkUnused', 'removeStored', 'removeCopy']);
    expect(await outcomeAttribute(handle)).toBe('Completed');
  });

  it.concurrent.each<[string, Partial<DeleteCheckpointRequest>, string[]]>([
    ['the store alone', { nodes: [] }, ['removeStored']],
    ['the node alone', { store: false }, ['checkUnused', 'removeCopy']],
  ])('removes from %s', async (what, request, steps) => {
    const handle = await remove(`delete ${what}`, {}, request);

    expect(await outcomeOf(handle)).toHaveProperty('result');
    expect(await stepsOf(handle)).toEqual(steps);
  });

  it.concurrent('removes nothing anywhere while one node uses it', async () => {
    const handle = await remove('delete-in-use', { checkUnused: fails('CheckpointInUse') });

    expect(await outcomeOf(handle)).toMatchObject({ type: 'CheckpointInUse' });
    expect(await stepsOf(handle)).toEqual(['checkUnused']);
  });

  it.concurrent('removes nothing anywhere while one node does not answer, and names that one', async () => {
    const timeouts = { ...TIMEOUTS, nodePickupMs: 1000 };
    const handle = await remove('delete-gone', {}, { nodes: [NODE, 'node-gone'], timeouts });

    expect(await outcomeOf(handle)).toMatchObject({
      type: 'NodeUnavailable',
      message: expect.stringMatching(/worker of node node-gone did not take/) as string,
      details: { node: 'node-gone' },
    });
    expect(await stepsOf(handle)).toEqual(['checkUnused', 'checkUnused']);
  });

  it.concurrent('asks all nodes before the first removal', async () => {
    const stop = await harness.serve(nodeQueues('node-d'));
    const handle = await remove('delete-two', {}, { nodes: [NODE, 'node-d'] });

    expect(await outcomeOf(handle)).toMatchObject({ result: { nodes: [{ node: NODE }, { node: 'node-d' }] } });
    expect(await stepsOf(handle)).toEqual(['checkUnused', 'checkUnused', 'removeStored', 'removeCopy', 'removeCopy']);
    await stop();
  });

  it.concurrent('completes where nothing is left to remove, and is found by that', async () => {
    const nothing = { found: false, freedBytes: 0, keptPacks: 0 };
    const steps = {
      removeStored: () => Promise.resolve(nothing),
      removeCopy: () => Promise.resolve({ found: false }),
    };
    const handle = await remove('delete-again', steps);

    expect(await outcomeOf(handle)).toMatchObject({ result: { store: nothing, nodes: [{ found: false }] } });
    expect(await outcomeAttribute(handle)).toBe('CheckpointNotFound');
  });

  it.concurrent('refuses a request that names no place', async () => {
    const handle = await remove('delete-nowhere', {}, { store: false, nodes: [] });

    expect(await outcomeOf(handle)).toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining('nodes: ') as string,
    });
  });
});

describe('importCheckpoint', () => {
  function start(id: string, steps: Scenario['steps'] = {}, request: Partial<ImportCheckpointRequest> = {}) {
    const whole = { node: NODE, archive: ARCHIVE, timeouts: TIMEOUTS, ...request };
    return harness.start('importCheckpoint', id, { steps }, whole);
  }

  it.concurrent('imports and uploads, and tells what became of it', async () => {
    const handle = await start('import-remote', {}, { checkpointId: 'ck-web' });

    expect(await outcomeOf(handle)).toMatchObject({
      result: {
        checkpointId: 'ck-web',
        node: NODE,
        created: true,
        pod: { name: 'web-0' },
        durability: 'remote',
        storedBytes: 700,
        remote: 's3://bucket/checkpoints/ck-web/manifest.json',
      },
    });
    expect(await stepsOf(handle)).toEqual([
      'probeNode',
      'importArchive',
      'uploadImage',
      'publishManifest',
      'confirmUpload',
    ]);
  });

  it.concurrent('stays on the node with durability local', async () => {
    const handle = await start('import-local', {}, { durability: 'local' });

    expect(await outcomeOf(handle)).toMatchObject({ result: { checkpointId: 'app-12345678', storedBytes: 0 } });
    expect(await stepsOf(handle)).toEqual(['probeNode', 'importArchive']);
  });

  it.concurrent('touches no archive when nobody would upload it', async () => {
    const probeNode = async (_input: never, happy: () => Promise<unknown>) => {
      const { store: _none, ...probe } = (await happy()) as { store?: string };
      return probe;
    };
    const handle = await start('import-no-sidecar', { probeNode });

    expect(await outcomeOf(handle)).toMatchObject({ type: 'NodeUnavailable' });
    expect(await stepsOf(handle)).toEqual(['probeNode']);
  });

  it.concurrent('fails as the node refuses', async () => {
    const handle = await start('import-refused', { importArchive: fails('RestoreRefused') });

    expect(await outcomeOf(handle)).toMatchObject({ type: 'RestoreRefused' });
  });
});

describe('inspectRestore', () => {
  it.concurrent('answers with what the node has noted, in one step', async () => {
    const request = { node: NODE, pod: { uid: 'u-1', container: 'app' }, timeouts: TIMEOUTS };
    const handle = await harness.start('inspectRestore', 'inspect', {}, request);

    expect(await outcomeOf(handle)).toMatchObject({ result: { node: NODE, outcome: { how: 'restored' } } });
    expect(await stepsOf(handle)).toEqual(['inspectRestore']);
  });
});

/* Where `restore` looks for the checkpoint, and what it says of it; its faults are in fault-table.test.ts. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import '../harness/provided.ts';
import { gate, openHarness, outcomeOf, stepsOf, type Harness, type Scenario } from './harness.ts';

const STORY = [
  'resolveLocal',
  'findCheckpoint',
  'probeNode',
  'preflightRestore',
  'requestLock',
  'fetchImage',
  'planRestore',
  'createContainer',
  'startRestored',
  'releaseRestoreLease',
  'releaseLock',
];

let harness: Harness;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
});
afterAll(() => harness.close());

/** Not on the node, so that the store is asked too. */
const notLocal = ({ steps }: Scenario): Scenario => ({
  steps: { resolveLocal: () => Promise.resolve({}), ...steps },
});

describe('restore', () => {
  it.concurrent('asks the node first, then the store, and does every step in order', async () => {
    const handle = await harness.restore('restore-store', notLocal({}));
    const outcome = await outcomeOf(handle);

    expect(await stepsOf(handle)).toEqual(STORY);
    expect(outcome).toMatchObject({
      result: { how: 'restored', from: 'store', fetchedBytes: 1000, initHostPid: 77, checkpointId: 'ck-restore-store' },
    });
  });

  it.concurrent('uses the copy on the node when there is one', async () => {
    const handle = await harness.restore('restore-local');
    const outcome = await outcomeOf(handle);

    expect(await stepsOf(handle)).toEqual(STORY.filter((step) => step !== 'findCheckpoint'));
    expect(outcome).toMatchObject({ result: { from: 'local', fetchedBytes: 0 } });
  });

  it.concurrent('ignores the copy on the node with source: store', async () => {
    const handle = await harness.restore('restore-forced', {}, { source: 'store' });
    const outcome = await outcomeOf(handle);

    expect(await stepsOf(handle)).toEqual(STORY.filter((step) => step !== 'resolveLocal'));
    expect(outcome).toMatchObject({ result: { from: 'store' } });
  });

  it.concurrent('fails with CheckpointNotFound when it is nowhere', async () => {
    const nowhere = { steps: { findCheckpoint: () => Promise.resolve({}) } };

    const outcome = await outcomeOf(await harness.restore('restore-nowhere', notLocal(nowhere)));

    expect(outcome).toMatchObject({
      type: 'CheckpointNotFound',
      message: 'no checkpoint ck-restore-nowhere on node node-a nor in the store',
    });
  });

  it.concurrent('names the new container after its source', async () => {
    const outcome = await outcomeOf(await harness.restore('restore-named', {}, { container: {} }));

    expect(outcome).toMatchObject({
      result: { container: { namespace: 'default', id: expect.stringMatching(/^redis-r[0-9a-f]{8}$/) as string } },
    });
  });

  it.concurrent('completes when it is cancelled after the processes run', async () => {
    const { script, open } = gate();
    const reached = harness.reached('restore-late-cancel', 'releaseRestoreLease');

    const handle = await harness.restore('restore-late-cancel', { steps: { releaseRestoreLease: script } });
    await reached;
    await handle.cancel();
    open();

    expect(await outcomeOf(handle)).toMatchObject({ result: { how: 'restored' } });
    expect((await stepsOf(handle)).slice(-3)).toEqual(['startRestored', 'releaseRestoreLease', 'releaseLock']);
  });

  it.concurrent('completes with a warning when only the lease could not be released', async () => {
    const steps = { releaseRestoreLease: () => Promise.reject(new Error('no such lease')) };

    const outcome = await outcomeOf(await harness.restore('restore-lease', { steps }));

    expect(outcome).toMatchObject({
      result: { warnings: [expect.stringContaining('lease on the images was not released') as string] },
    });
  });
});

/* The rungs of `restore`: what is tried after what went wrong, that nothing of an attempt is left before the next, and what ends it. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import type { RungReport } from '../../core/contract/ladder.ts';
import type { ResolveResult, RestoreRequest, RestoreResult } from '../../core/contract/restore.ts';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import '../harness/provided.ts';
import {
  fails,
  nodeQueues,
  once,
  openHarness,
  outcomeOf,
  stepsOf,
  type Harness,
  type Outcome,
  type Scenario,
  type Script,
} from './harness.ts';
import { NODE, TIMEOUTS } from './requests.ts';

let harness: Harness;
let stopOther: () => Promise<void>;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
  stopOther = await harness.serve(nodeQueues('node-b'));
});
afterAll(async () => {
  await stopOther();
  await harness.close();
});

type Steps = NonNullable<Scenario['steps']>;

async function ended(
  id: string,
  steps: Steps,
  request: Partial<RestoreRequest> = {},
): Promise<{ steps: string[]; outcome: Outcome; rungs: string[] }> {
  const handle = await harness.restore(id, { steps }, request);
  const outcome = await outcomeOf(handle);
  return { steps: await stepsOf(handle), outcome, rungs: rungsOf(outcome) };
}

function rungsOf(outcome: Outcome): string[] {
  const told =
    'result' in outcome
      ? (outcome.result as RestoreResult).rungs
      : ((outcome.details as { rungs?: RungReport[] } | undefined)?.rungs ?? []);
  return told.map(({ rung, type, outcome: came }) => `${rung} ${type ?? came}`);
}

const words = (text: string): string[] => text.split(' ');

const NOT_THERE: Script = () => Promise.resolve({});
const corrupt = fails('CheckpointCorrupt');
/** Of the copy on the node alone. */
const corruptLocally: Script = (input, happy) =>
  (input as { from: string }).from === 'local' ? corrupt(input, happy) : happy();

describe('the ladder of a restore', () => {
  it.concurrent('goes to the store when the copy on the node is damaged, and says which copy that was', async () => {
    const { steps, outcome, rungs } = await ended('ladder-damaged', { fetchImage: corruptLocally });

    expect(rungs).toEqual(['local-copy CheckpointCorrupt', 'other-tier restored']);
    expect(outcome).toMatchObject({
      result: {
        from: 'store',
        damaged: [{ place: 'node', node: 'node-a', checkpointId: 'ck-ladder-damaged' }],
        warnings: [expect.stringContaining('it was replaced from the store') as string],
      },
    });
    expect(steps).toEqual([
      ...words('resolveLocal probeNode preflightRestore requestLock fetchImage'),
      ...words('releaseRestoreLease releaseLock'),
      ...words('findCheckpoint probeNode preflightRestore requestLock fetchImage'),
      ...words('planRestore createContainer startRestored releaseRestoreLease releaseLock'),
    ]);
  });

  it.concurrent('fails with the damage where the store has no copy either', async () => {
    const { outcome, rungs } = await ended('ladder-nowhere', { fetchImage: corrupt, findCheckpoint: NOT_THERE });

    expect(outcome).toMatchObject({
      type: 'CheckpointCorrupt',
      message: expect.stringContaining('(tried: local-copy: CheckpointCorrupt; other-tier: not-there') as string,
      details: { damaged: [{ node: 'node-a' }] },
    });
    expect(rungs.slice(0, 3)).toEqual(['local-copy CheckpointCorrupt', 'other-tier not-there', 'peer skipped']);
  });

  it.concurrent('has a peer bring its copy to the store', async () => {
    const onPeer: Script = (input, happy) =>
      (input as { node: string }).node === 'node-b' ? happy() : Promise.resolve({});
    const { steps, outcome, rungs } = await ended(
      'ladder-peer',
      { resolveLocal: onPeer, findCheckpoint: NOT_THERE },
      { peers: ['node-b'] },
    );

    expect(rungs).toEqual(['local-copy not-there', 'other-tier not-there', 'peer restored']);
    expect(outcome).toMatchObject({ result: { node: 'node-a', from: 'store' } });
    expect(steps.slice(0, 8)).toEqual([
      ...words('resolveLocal findCheckpoint resolveLocal probeNode findCheckpoint'),
      ...words('uploadImage publishManifest confirmUpload'),
    ]);
  });

  it.concurrent('asks the next peer when one is gone, and fails with that when no other has a copy', async () => {
    const onPeer: Script = (input, happy) =>
      (input as { node: string }).node === 'node-b' ? happy() : Promise.resolve({});
    const steps = { resolveLocal: onPeer, findCheckpoint: NOT_THERE };
    const timeouts = { ...TIMEOUTS, nodePickupMs: 1000 };

    const asked = await ended('ladder-next-peer', steps, { peers: ['node-gone', 'node-b'], timeouts });
    const alone = await ended('ladder-no-peer', steps, { peers: ['node-gone'], timeouts });

    const nowhere = ['local-copy not-there', 'other-tier not-there', 'peer NodeUnavailable'];
    expect(asked.rungs).toEqual([...nowhere, 'peer restored']);
    expect(alone.rungs.slice(0, 3)).toEqual(nowhere);
    expect(alone.outcome).toMatchObject({ type: 'NodeUnavailable' });
  });

  it.concurrent('goes on when only the lease of an attempt could not be given back, and says so', async () => {
    const steps = { fetchImage: once(fails('DiskFull')), releaseRestoreLease: once(fails('Internal')) };
    const { outcome, rungs } = await ended('ladder-lease', steps, {
      ladder: ['local-copy', 'another-node'],
      otherNodes: ['node-b'],
    });

    expect(rungs).toEqual(['local-copy DiskFull', 'another-node restored']);
    expect(outcome).toMatchObject({
      result: { warnings: [expect.stringContaining('the lease on the images was not released') as string] },
    });
  });

  it.concurrent('takes other GPUs when those of the plan have no room', async () => {
    const avoided: unknown[] = [];
    const planRestore: Script = async (input, happy) => {
      avoided.push((input as { avoidGpus?: unknown }).avoidGpus);
      return { ...((await happy()) as object), gpuMap: [{ from: 'GPU-a', to: 'GPU-b' }] };
    };
    const { steps, rungs } = await ended('ladder-gpu', {
      planRestore,
      startRestored: once(fails('GpuOutOfMemory')),
    });

    expect(rungs.filter((one) => !one.endsWith('skipped'))).toEqual([
      'local-copy GpuOutOfMemory',
      'another-gpu restored',
    ]);
    expect(avoided).toEqual([undefined, ['GPU-b']]);
    expect(steps.filter((step) => step === 'removeRestored')).toHaveLength(1);
  });

  it.concurrent.each<[string, 'preflightRestore' | 'planRestore']>([
    ['before the lock', 'preflightRestore'],
    ['when it is planned', 'planRestore'],
  ])('fails with what went wrong on the GPU where the node has no other: told %s', async (_when, step) => {
    const gpuMap = [{ from: 'GPU-a', to: 'GPU-a' }];
    const answer: Script = async (input, happy) => {
      const { avoidGpus = [] } = input as { avoidGpus?: readonly string[] };
      return avoidGpus.length > 0 ? fails('Incompatible')(input, happy) : { ...((await happy()) as object), gpuMap };
    };
    const { steps, outcome, rungs } = await ended(`ladder-only-gpu-${step}`, {
      planRestore: async (_input, happy) => ({ ...((await happy()) as object), gpuMap }),
      startRestored: fails('GpuOutOfMemory'),
      [step]: answer,
    });

    expect(rungs).toEqual(['local-copy GpuOutOfMemory', 'other-tier skipped', 'peer skipped', 'another-gpu skipped']);
    expect(outcome).toMatchObject({ type: 'GpuOutOfMemory', message: expect.not.stringContaining('tried') as string });
    expect(steps.filter((name) => name === 'startRestored')).toHaveLength(1);
    expect(steps.filter((name) => name === 'releaseLock')).toHaveLength(step === 'planRestore' ? 2 : 1);
  });

  it.concurrent('restores on another node only when it is named', async () => {
    const steps = { preflightRestore: once(fails('Incompatible')) };

    const unnamed = await ended('ladder-unnamed', steps);
    const named = await ended(
      'ladder-named',
      { preflightRestore: once(fails('Incompatible')) },
      { ladder: ['local-copy', 'another-node'], otherNodes: ['node-b'] },
    );

    expect(unnamed.outcome).toMatchObject({ type: 'Incompatible' });
    expect(named.rungs).toEqual(['local-copy Incompatible', 'another-node restored']);
    expect(named.outcome).toMatchObject({ result: { node: 'node-b' } });
  });

  it.concurrent('takes the newest older checkpoint of the container that restores', async () => {
    const tried: string[] = [];
    const older =
      (ids: readonly string[]): Script =>
      () =>
        Promise.resolve({
          checkpoints: ids.map((checkpointId) => ({ checkpointId, createdAt: checkpointId.slice(2) })),
        });
    const startRestored: Script = (input, happy) => {
      const { checkpointId = '' } = (input as { context: { checkpointId?: string } }).context;
      tried.push(checkpointId);
      return checkpointId === 'ck2026-01' ? happy() : fails('RestoreFailed')(input, happy);
    };
    const { outcome } = await ended(
      'ladder-older',
      { startRestored, olderLocal: older(['ck2026-01', 'ck2026-02']), olderStored: older(['ck2025-12', 'ck2026-02']) },
      { ladder: ['local-copy', 'older-checkpoint'] },
    );

    expect(tried).toEqual(['ck-ladder-older', 'ck2026-02', 'ck2026-01']);
    expect(outcome).toMatchObject({ result: { checkpointId: 'ck2026-01', how: 'restored' } });
  });

  it.concurrent('starts afresh last, and only when asked to', async () => {
    const cold: Script = async (_input, happy) => ({ ...((await happy()) as object), how: 'cold-started' });
    const { steps, outcome, rungs } = await ended(
      'ladder-cold',
      { fetchImage: corrupt, startRestored: cold },
      { ladder: ['local-copy', 'other-tier', 'cold-start'] },
    );

    expect(rungs).toEqual(['local-copy CheckpointCorrupt', 'other-tier CheckpointCorrupt', 'cold-start cold-started']);
    expect(steps.slice(-7)).toEqual(
      words('resolveLocal probeNode requestLock createCold startRestored releaseRestoreLease releaseLock'),
    );
    expect(outcome).toMatchObject({
      result: { how: 'cold-started', damaged: [{ place: 'node' }, { place: 'store' }] },
    });
  });

  it.concurrent.each(['RestoreRefused', 'StorageDenied', 'SignatureInvalid', 'LockLost', 'InvalidInput'])(
    'ends at once with %s',
    async (type) => {
      const { outcome, rungs } = await ended(
        `ladder-ends-${type.toLowerCase()}`,
        { fetchImage: fails(type) },
        { ladder: ['local-copy', 'other-tier', 'older-checkpoint', 'cold-start'] },
      );

      expect(outcome).toMatchObject({ type });
      expect(rungs).toEqual([]);
    },
  );

  it.concurrent('ends when the undo of an attempt leaves something', async () => {
    const { outcome, steps } = await ended(
      'ladder-left',
      { startRestored: fails('RestoreFailed'), removeRestored: fails('Internal') },
      { ladder: ['local-copy', 'cold-start'] },
    );

    expect(outcome).toMatchObject({ type: 'CompensationFailed' });
    expect(steps).not.toContain('createCold');
  });

  it.concurrent('tries nothing else when what is left cannot help', async () => {
    const { outcome, steps } = await ended('ladder-helpless', { startRestored: fails('RestoreFailed') });

    expect(outcome).toMatchObject({ type: 'RestoreFailed', message: 'scripted RestoreFailed' });
    expect(steps.slice(-3)).toEqual(['removeRestored', 'releaseRestoreLease', 'releaseLock']);
  });

  it.concurrent('goes on from a preflight that found reasons with all of them in the error', async () => {
    const findings = [
      { code: 'kernel', severity: 'error', message: 'older', remedy: 'newer' },
      { code: 'disk', severity: 'error', message: 'full', remedy: 'free' },
      { code: 'cpu-vendor', severity: 'warning', message: 'other', remedy: 'test' },
    ];
    const preflightRestore: Script = async (_input, happy) => ({ ...((await happy()) as object), findings });
    const { outcome, steps } = await ended('ladder-reasons', { preflightRestore });

    expect(outcome).toMatchObject({
      type: 'Incompatible',
      message: 'ck-ladder-reasons cannot be restored on node-a: older; full',
      details: { reasons: ['older', 'full'], findings: findings.slice(0, 2) },
    });
    expect(steps).toEqual(['resolveLocal', 'probeNode', 'preflightRestore']);
  });
});

describe('a restore under a name that is taken', () => {
  it.concurrent('ends before anything is downloaded, and tries nothing else', async () => {
    const findings = [{ code: 'name', severity: 'error', message: 'default/web exists already', remedy: 'another' }];
    const asked: unknown[] = [];
    const preflightRestore: Script = async (input, happy) => {
      asked.push(input);
      return { ...((await happy()) as object), findings };
    };
    const { outcome, steps } = await ended(
      'ladder-name',
      { preflightRestore },
      { container: { id: 'web' }, otherNodes: ['node-b'] },
    );

    expect(outcome).toMatchObject({
      type: 'InvalidInput',
      message: 'container.id: default/web exists already; nothing was touched',
      details: { remedy: 'another' },
    });
    expect(asked).toMatchObject([{ name: true, container: { namespace: 'default', id: 'web' } }]);
    expect(steps).toEqual(['resolveLocal', 'probeNode', 'preflightRestore']);
  });
});

describe('a restore of processes', () => {
  it.concurrent(
    'is refused for the checkpoint of a container before anything is downloaded, with the command',
    async () => {
      const id = 'processes-of-container';
      const found = {
        from: 'local',
        totalBytes: 1,
        kind: 'container',
        sourceContainer: { namespace: 'default', id: 'web' },
      };
      const resolveLocal: Script = () => Promise.resolve({ found });
      harness.script(id, { steps: { resolveLocal } });
      const args = [{ node: NODE, timeouts: TIMEOUTS, checkpointId: 'ck-web' }];
      const handle = await harness.client.workflow.start('restoreProcess', {
        workflowId: id,
        taskQueue: CONTROL_QUEUE,
        args,
      });

      expect(await outcomeOf(handle)).toMatchObject({
        type: 'Incompatible',
        message: expect.stringContaining('ck-web is of a container') as string,
        details: { remedy: 'kybernate restore ck-web' },
      });
      expect(await stepsOf(handle)).toEqual(['resolveLocal']);
    },
  );
});

describe('preflight', () => {
  const preflight = async (id: string, steps: Steps, request: object): Promise<Outcome> => {
    harness.script(id, { steps });
    const args = [{ node: NODE, timeouts: TIMEOUTS, ...request }];
    return outcomeOf(
      await harness.client.workflow.start('preflight', { workflowId: id, taskQueue: CONTROL_QUEUE, args }),
    );
  };

  it.concurrent('looks at the description in the store where the node has no copy, errors first', async () => {
    const asked: Array<Pick<ResolveResult, 'from'>> = [];
    const error = { code: 'kernel', severity: 'error', message: 'older', remedy: 'newer' };
    const warning = { code: 'cpu-vendor', severity: 'warning', message: 'other', remedy: 'test' };
    const preflightRestore: Script = async (input, happy) => {
      asked.push(input);
      return { ...((await happy()) as object), findings: [warning, error] };
    };
    const outcome = await preflight(
      'preflight-store',
      { resolveLocal: NOT_THERE, preflightRestore },
      { checkpointId: 'ck-x' },
    );

    expect(outcome).toMatchObject({ result: { fits: false, from: 'store', findings: [error, warning] } });
    expect(asked).toMatchObject([{ from: 'store', tcp: 'close', container: { namespace: 'default', id: 'redis' } }]);
  });

  it.concurrent('looks at a container', async () => {
    const outcome = await preflight('preflight-container', {}, { container: { id: 'redis' } });

    expect(outcome).toMatchObject({ result: { fits: true, container: { id: 'redis' }, findings: [] } });
  });

  it.concurrent('fails with CheckpointNotFound when it is nowhere', async () => {
    const outcome = await preflight(
      'preflight-nowhere',
      { resolveLocal: NOT_THERE, findCheckpoint: NOT_THERE },
      { checkpointId: 'ck-x' },
    );

    expect(outcome).toMatchObject({ type: 'CheckpointNotFound' });
  });
});

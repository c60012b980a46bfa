/* What `rehearse` does, shows and refuses; its faults are in fault-table.test.ts. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import '../harness/provided.ts';
import { fails, openHarness, outcomeOf, stepsOf, type Harness } from './harness.ts';

const STORY = [
  'probeNode',
  'requestLock',
  'planCheckpoint',
  'startRunner',
  'saveGpuState',
  'resumeContainer',
  'recordRehearsal',
  'endOperation',
  'discardCapture',
  'releaseLock',
];
const FORGETS = ['discardCapture', 'endOperation', 'releaseLock'];

let harness: Harness;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
});
afterAll(() => harness.close());

describe('rehearse', () => {
  it.concurrent('saves and restores in place, records it and captures nothing', async () => {
    const resumeContainer = () =>
      Promise.resolve({
        source: 'running',
        checks: { thawed: true },
        gpu: { pauseMs: 61, parts: { 'gpu-lock': 5, 'gpu-save': 25, 'gpu-restore': 28, 'gpu-unlock': 3 } },
      });

    const handle = await harness.rehearse('rehearse-story', { steps: { resumeContainer } });
    const outcome = await outcomeOf(handle);

    expect(await stepsOf(handle)).toEqual(STORY);
    expect(outcome).toEqual({
      result: {
        node: 'node-a',
        container: { namespace: 'default', id: 'rehearse-story' },
        gpuProcesses: 1,
        vramBytes: 1_073_741_824,
        gpuPauseMs: 61,
        parts: { 'gpu-lock': 5, 'gpu-save': 25, 'gpu-restore': 28, 'gpu-unlock': 3 },
        warnings: ['plan'],
      },
    });
  });

  it.concurrent('plans as a rehearsal, under an id that is no checkpoint', async () => {
    const plans: unknown[] = [];
    const planCheckpoint = async (input: never, happy: () => Promise<unknown>): Promise<unknown> => {
      plans.push(input);
      return { ...((await happy()) as object), gpuProcesses: 1, vramBytes: 1 };
    };

    const request = { freezeBudgetMs: 5000, gpu: { lockTimeoutMs: 700 } };
    await outcomeOf(await harness.rehearse('rehearse-plan', { steps: { planCheckpoint } }, request));

    expect(plans).toEqual([
      expect.objectContaining({
        rehearsal: true,
        freezeBudgetMs: 5000,
        after: 'resume',
        gpu: { lockTimeoutMs: 700, allowShared: false, assumeSafe: false, hugePages: true },
        context: expect.objectContaining({
          checkpointId: expect.stringMatching(/^rehearsal-[0-9]{14}-[0-9a-f]{8}$/) as string,
        }) as object,
      }),
    ]);
  });

  it.concurrent('shows its phases, the GPU and its VRAM', async () => {
    const handle = await harness.rehearse('rehearse-shown');
    await outcomeOf(handle);

    const progress = await handle.query<{ finished: Array<{ phase: string }>; gpu?: object }>('progress');
    const { typedSearchAttributes } = await handle.describe();

    expect(progress.finished.map(({ phase }) => phase)).toEqual([
      'probing',
      'locking',
      'planning',
      'starting-runner',
      'saving-gpu',
      'resuming',
    ]);
    expect(progress.gpu).toEqual({ processes: 1, vramBytes: 1_073_741_824 });
    expect(typedSearchAttributes.getAll().map(({ key, value }) => [key.name, value])).toEqual(
      expect.arrayContaining([
        ['KybernateGpu', 'yes'],
        ['KybernatePhase', 'done'],
        ['KybernateOutcome', 'Completed'],
      ]),
    );
  });

  it.concurrent('refuses a container without a GPU process before a runner is started', async () => {
    const planCheckpoint = (_input: never, happy: () => Promise<unknown>) => happy();

    const handle = await harness.rehearse('rehearse-cpu', { steps: { planCheckpoint } });
    const outcome = await outcomeOf(handle);

    expect(outcome).toMatchObject({
      type: 'GpuUnsupported',
      message:
        'nothing to rehearse: no process of container default/rehearse-cpu on node-a uses a GPU; it was not touched',
    });
    expect(await stepsOf(handle)).toEqual(['probeNode', 'requestLock', 'planCheckpoint', ...FORGETS]);
  });

  it.concurrent(
    'says Poisoned and leaves the operation on the node when the driver does not bring a process back',
    async () => {
      const handle = await harness.rehearse('rehearse-poisoned', { steps: { resumeContainer: fails('Poisoned') } });
      const outcome = await outcomeOf(handle);

      expect(outcome).toMatchObject({
        type: 'Poisoned',
        details: { left: ['resumeContainer', 'discardCapture', 'endOperation'] },
      });
      expect(await stepsOf(handle)).toEqual([...STORY.slice(0, 6), 'resumeContainer', 'releaseLock']);
    },
  );
});

import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger, type LogEntry } from '@temporalio/worker';
import { describe, expect, it } from 'vitest';
import type { Meter } from '../core/metrics.ts';
import { observeSteps } from './observe.ts';
import { withOp } from './op.ts';

/** What a step of this name counts and says. */
async function run(
  activityType: string,
  step: (input: object) => Promise<unknown>,
  input: object = {},
): Promise<{ counted: string[]; lines: LogEntry[] }> {
  const counted: string[] = [];
  const lines: LogEntry[] = [];
  const note = (name: string, labels: object, value: number | undefined): void => {
    counted.push([name, ...Object.values(labels as Record<string, string>), value ?? 1].join(' '));
  };
  const meter: Meter = { add: note, observe: note, gauge: () => undefined };
  const env = new MockActivityEnvironment(
    { activityType, workflowExecution: { workflowId: 'w', runId: 'r' } },
    { interceptors: [observeSteps(meter)], logger: new DefaultLogger('INFO', (entry) => lines.push(entry)) },
  );
  await env.run(step, input).catch(() => undefined);
  return { counted, lines };
}

const PHASES = { freezeMs: 120, gpuPauseMs: 900, totalMs: 2000, unaccountedMs: 1, parts: { prepare: 20, dump: 100 } };

describe('a step that ends well', () => {
  it('of a capture tells its freeze and its parts in seconds, and one line with the keys of all logs', async () => {
    const context = { checkpointId: 'ck-1', container: { namespace: 'default', id: 'web' }, token: 1 };
    const { counted, lines } = await run(
      'captureContainer',
      async () => ({ phases: PHASES, imageBytes: 30, rootfsBytes: 12, warnings: [] }),
      { context },
    );

    expect(counted).toEqual([
      'kybernate_freeze_seconds 0.12',
      'kybernate_capture_part_seconds prepare 0.02',
      'kybernate_capture_part_seconds dump 0.1',
    ]);
    expect(lines.find(({ message }) => message === 'captured')?.meta).toMatchObject({
      checkpointId: 'ck-1',
      container: 'default/web',
      durationMs: 2000,
      freezeMs: 120,
      bytes: 42,
      phases: PHASES.parts,
      unaccountedMs: 1,
    });
  });

  it('of the release tells the pause of the GPU and why a guard had to act', async () => {
    const gpu = { pauseMs: 900, parts: { 'gpu-lock': 10, 'gpu-restore': 400, 'gpu-unlock': 20 }, warnings: [] };
    const { counted } = await run('resumeContainer', async () => ({ source: 'running', gpu, guard: 'runner-gone' }));

    expect(counted).toEqual([
      'kybernate_gpu_pause_seconds 0.9',
      'kybernate_gpu_part_seconds checkpoint gpu-restore 0.4',
      'kybernate_gpu_part_seconds checkpoint gpu-unlock 0.02',
      'kybernate_guard_actions_total runner-gone 1',
    ]);
  });

  it('of another kind counts nothing', async () => {
    expect((await run('probeNode', async () => ({}))).counted).toEqual([]);
  });

  it('stays well when its result is not as expected, and says so', async () => {
    const { counted, lines } = await run('captureContainer', async () => ({}));

    expect(counted).toEqual([]);
    expect(lines.map(({ message }) => message)).toContain('the result of a step could not be counted');
  });
});

describe('a step that fails', () => {
  it('is counted by its error type, and once more where a workload is poisoned', async () => {
    const failed = await run('fetchImage', () => Promise.reject(ApplicationFailure.nonRetryable('x', 'DiskFull')));
    const poisoned = await run('stopContainer', () => Promise.reject(ApplicationFailure.nonRetryable('x', 'Poisoned')));

    expect(failed.counted).toEqual(['kybernate_step_failures_total fetchImage DiskFull 1']);
    expect(poisoned.counted).toEqual([
      'kybernate_step_failures_total stopContainer Poisoned 1',
      'kybernate_poisoned_total 1',
    ]);
  });

  it('because it was cancelled is no failure', async () => {
    const { counted } = await run('uploadImage', () => Promise.reject(new CancelledFailure('CANCELLED')));

    expect(counted).toEqual([]);
  });
});

describe('the bytes of a long step', () => {
  it('are counted while they move, and those of a phase that begins again are not taken back', async () => {
    const { counted } = await run('uploadImage', () =>
      withOp({}, async (op) => {
        [10, 30, 30, 5, 6].forEach((bytesDone) => op.progress({ phase: 'uploading', bytesDone }));
        op.progress({ phase: 'verifying' });
        throw new CancelledFailure('CANCELLED');
      }),
    );

    expect(counted).toEqual([
      'kybernate_moved_bytes_total uploading 10',
      'kybernate_moved_bytes_total uploading 20',
      'kybernate_moved_bytes_total uploading 1',
    ]);
  });
});

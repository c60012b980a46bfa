import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { describe, expect, it } from 'vitest';
import { OPERATION_ID_PATTERN } from '../core/ids.ts';
import { mapErrorsInterceptor } from './map-errors.ts';
import { operationIdOf, withOp } from './op.ts';

const EXECUTION = { workflowId: 'checkpoint:../../etc:1', runId: 'a-b-c' };

function environment(): { env: MockActivityEnvironment; beats: unknown[] } {
  const env = new MockActivityEnvironment(
    { workflowExecution: EXECUTION, heartbeatTimeoutMs: 300 },
    { interceptors: [mapErrorsInterceptor], logger: new DefaultLogger('ERROR', () => undefined) },
  );
  const beats: unknown[] = [];
  env.on('heartbeat', (details: unknown) => beats.push(details));
  return { env, beats };
}

describe('withOp', () => {
  it('gives every attempt the same operation id, safe as a file name', async () => {
    const run = (): Promise<unknown> => environment().env.run(() => withOp({}, async (op) => op.operationId));

    const [first, second] = [await run(), await run()];

    expect(first).toBe(second);
    expect(first).toMatch(OPERATION_ID_PATTERN);
    expect(operationIdOf(EXECUTION.workflowId, 'other')).not.toBe(first);
  });

  it('beats with the last progress, also between two reports', async () => {
    const { env, beats } = environment();

    await env.run(() =>
      withOp({}, async (op) => {
        op.progress({ phase: 'uploading', bytesDone: 7 });
        await untilBeats(beats, 3);
      }),
    );

    expect(beats[0]).toEqual({ v: 1 });
    expect(beats.slice(1)).toContainEqual({ v: 1, phase: 'uploading', bytesDone: 7 });
  });

  it('falls silent and aborts the step when nothing moves', async () => {
    const { env } = environment();
    const run = env.run(() =>
      withOp(
        { stallMs: 1 },
        (op) =>
          new Promise((_resolve, reject) => {
            op.signal.addEventListener('abort', () => reject(op.signal.reason as Error));
          }),
      ),
    );

    await expect(run).rejects.toMatchObject({
      type: 'Internal',
      message: expect.stringContaining('no progress') as string,
    });
    await expect(run).rejects.toBeInstanceOf(ApplicationFailure);
  });

  it('passes a cancellation to the step, and on to Temporal', async () => {
    const { env } = environment();
    const run = env.run(() =>
      withOp({}, async (op) => {
        env.cancel('CANCELLED');
        op.signal.throwIfAborted();
      }),
    );

    await expect(run).rejects.toBeInstanceOf(CancelledFailure);
  });
});

function untilBeats(beats: readonly unknown[], count: number): Promise<void> {
  return expect.poll(() => beats.length, { interval: 20 }).toBeGreaterThanOrEqual(count);
}

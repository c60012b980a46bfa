/* A worker that cannot work says why and what to do, instead of polling in vain. */
import { Connection } from '@temporalio/client';
import { msToTs } from '@temporalio/common/lib/time.js';
import { describe, expect, inject, it } from 'vitest';

import { connectOperations, countPollers } from '../../cli/connect.ts';
import { messageOf } from '../../core/errors.ts';
import { startControlWorker } from '../../workers/control.ts';
import '../harness/provided.ts';

const silent = () => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };
const env = (): Record<string, string> => {
  const { address, namespace } = inject('temporal');
  return { TEMPORAL_ADDRESS: address, TEMPORAL_NAMESPACE: namespace, KYBERNATE_NODE: 'node-a' };
};

describe('the control workers that could take an operation', () => {
  it('are none as soon as the last has ended: the server lists it for minutes more', async () => {
    const operations = await connectOperations(env());
    const workers = (operation: { workflowId: string }): Promise<number> | undefined =>
      operations.controlWorkers?.(operation);
    const first = await startControlWorker({ env: env(), log });
    await expect.poll(() => countPollers(env(), inject('temporal').address, operations.namespace)).toBeGreaterThan(0);
    first.shutdown();
    await first.done;

    const operation = await operations.preflight({ node: 'nobody', checkpointId: 'ck-x' }, {});
    await expect.poll(() => workers(operation)).toBe(0);

    const second = await startControlWorker({ env: env(), log });
    await expect.poll(() => workers(operation), { timeout: 30_000 }).toBeGreaterThan(0);
    await operation.cancel();
    second.shutdown();
    await second.done;
    await operations.close();
  });
});

describe('control worker', () => {
  it('starts, and ends when it is told to', async () => {
    const worker = await startControlWorker({ env: env(), log });

    worker.shutdown();

    await expect(worker.done).resolves.toBeUndefined();
  });

  it('names the command that makes a missing namespace', async () => {
    const start = startControlWorker({ env: { ...env(), TEMPORAL_NAMESPACE: 'nowhere' }, log });

    await expect(start).rejects.toMatchObject({
      type: 'Incompatible',
      message: expect.stringMatching(/has no namespace nowhere: run "kybernate temporal apply" first/) as string,
    });
  });

  it('names the search attributes that are missing', async () => {
    const connection = await Connection.connect({ address: inject('temporal').address });
    await connection.workflowService.registerNamespace({
      namespace: 'bare',
      workflowExecutionRetentionPeriod: msToTs('1 day'),
    });
    await connection.close();
    const start = (): Promise<unknown> => startControlWorker({ env: { ...env(), TEMPORAL_NAMESPACE: 'bare' }, log });

    // Servers learn of a new namespace with a delay.
    await expect
      .poll(() => start().catch(messageOf), { timeout: 30_000, interval: 500 })
      .toMatch(/lacks the search attributes KybernateNode, .*kybernate temporal apply/);
  });

  it('names the address at which nobody answers', async () => {
    const start = startControlWorker({ env: { ...env(), TEMPORAL_ADDRESS: '127.0.0.1:1' }, log });

    await expect(start).rejects.toMatchObject({
      type: 'Incompatible',
      message: expect.stringContaining('no Temporal server answers on 127.0.0.1:1') as string,
    });
  });

  it('names every variable that is wrong', async () => {
    const start = startControlWorker({ env: { ...env(), KYBERNATE_STORE: 'nfs://x' }, log });

    await expect(start).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining('KYBERNATE_STORE') as string,
    });
  });
});

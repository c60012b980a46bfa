/* The typed client against a real server: what an operator relies on. */
import { afterAll, beforeAll, describe, expect, inject, it, vi } from 'vitest';

import {
  createKybernateClient,
  isKybernateError,
  type KybernateClient,
  type OperationFilter,
  type OperationSummary,
} from '../../client/index.ts';
import '../harness/provided.ts';
import { fails, gate, onGpu, openHarness, untilCancelled, type Harness } from './harness.ts';
import { NODE, TIMEOUTS } from './requests.ts';

let harness: Harness;
let client: KybernateClient;
beforeAll(async () => {
  const server = inject('temporal');
  harness = await openHarness({ server });
  client = await createKybernateClient({ address: server.address, namespace: server.namespace, env: {} });
});
afterAll(async () => {
  await client.close();
  await harness.close();
});

const request = (id: string) => ({ node: NODE, container: { id }, timeouts: TIMEOUTS });

describe('client', () => {
  it.concurrent('starts a checkpoint and returns its typed result', async () => {
    const operation = await client.checkpoint(request('typed'));

    const result = await operation.result();

    expect(result.container).toEqual({ namespace: 'default', id: 'typed' });
    expect(operation.workflowId).toMatch(/^checkpoint:typed:/);
  });

  it.concurrent('prefetches to several nodes, and refuses a wrong request before anything is started', async () => {
    const request = { checkpointId: 'ck-near', nodes: [NODE], timeouts: TIMEOUTS };

    const operation = await client.prefetch(request, { generation: '1' });
    const again = await client.prefetch(request, { generation: '1' });

    expect(operation.workflowId).toBe('prefetch:ck-near:1');
    expect(again.runId).toBe(operation.runId);
    expect((await operation.result()).nodes).toMatchObject([{ node: NODE, outcome: 'done', bytes: 1000 }]);
    await expect(async () => client.prefetch({ ...request, nodes: [] })).rejects.toMatchObject({
      type: 'InvalidInput',
    });
  });

  it.concurrent('rehearses and returns its typed result', async () => {
    harness.script('rehearse:young:1', onGpu({}));

    const operation = await client.rehearse(request('young'), { generation: '1' });
    const result = await operation.result();

    expect(result.vramBytes).toBe(1_073_741_824);
    expect(result.container).toEqual({ namespace: 'default', id: 'young' });
  });

  it.concurrent('verifies and repairs a checkpoint and returns the typed results', async () => {
    const verified = await client.verify({ checkpointId: 'ck-1', node: NODE, where: 'store', timeouts: TIMEOUTS });
    const repaired = await client.repair({ checkpointId: 'ck-1', node: NODE, timeouts: TIMEOUTS });

    expect(await verified.result()).toMatchObject({ mode: 'quick', ok: true, places: [{ place: 'store', ok: true }] });
    expect((await repaired.result()).after.map(({ ok }) => ok)).toEqual([true, true]);
    expect(verified.workflowId).toMatch(/^verifyCheckpoint:ck-1:/);
    expect(repaired.workflowId).toMatch(/^repairCheckpoint:ck-1:/);
  });

  it.concurrent(
    'deletes and imports a checkpoint, looks at a restore, and tells the nodes of one checkpoint',
    async () => {
      const timeouts = TIMEOUTS;
      const imported = await client.importCheckpoint({ node: NODE, archive: '/a/b', checkpointId: 'ck-imp', timeouts });
      const looked = await client.inspectRestore({ node: NODE, pod: { uid: 'u-1', container: 'app' }, timeouts });
      const deleted = await client.deleteCheckpoint({ checkpointId: 'ck-imp', nodes: [NODE], timeouts });

      expect(await imported.result()).toMatchObject({ checkpointId: 'ck-imp', durability: 'remote' });
      expect(await looked.result()).toMatchObject({ outcome: { how: 'restored' } });
      expect(await deleted.result()).toMatchObject({ store: { found: true }, nodes: [{ node: NODE, found: true }] });
      // The visibility store lags.
      await vi.waitFor(async () => expect(await client.nodes({ checkpointId: 'ck-imp' })).toEqual([NODE]), {
        timeout: 10_000,
      });
      expect(await client.nodes({ checkpointId: 'ck-nobody' })).toEqual([]);
      await expect(client.nodes({ checkpointId: 'a" OR "1"="1' })).rejects.toMatchObject({ type: 'InvalidInput' });
    },
  );

  it.concurrent('lists operations with their node, container and outcome, newest first', async () => {
    const { script, open } = gate();
    harness.script('checkpoint:listed-2:1', { steps: { planCheckpoint: script } });
    const reached = harness.reached('checkpoint:listed-2:1', 'planCheckpoint');
    await (await client.checkpoint(request('listed'), { generation: '1' })).result();
    await client.checkpoint(request('listed-2'), { generation: '1' });
    await reached;
    const listed = async (filter: OperationFilter): Promise<OperationSummary[]> =>
      (await client.list({ node: NODE, ...filter })).filter(({ container }) => /listed/.test(container ?? ''));
    // The visibility store lags.
    await vi.waitFor(
      async () => expect((await listed({})).map(({ status }) => status)).toEqual(['RUNNING', 'COMPLETED']),
      { timeout: 10_000 },
    );
    const [newest, ended] = await listed({});
    const running = await listed({ running: true });
    const recent = await listed({ endedAfter: Date.now() + 60_000 });
    const named = await listed({ container: 'listed' });
    open();

    expect(newest).toMatchObject({
      workflowId: 'checkpoint:listed-2:1',
      status: 'RUNNING',
      container: 'default/listed-2',
    });
    expect(ended).toMatchObject({
      workflowId: 'checkpoint:listed:1',
      type: 'checkpoint',
      status: 'COMPLETED',
      node: NODE,
      container: 'default/listed',
      phase: 'done',
      endedAt: expect.any(String) as string,
    });
    expect(running.map(({ workflowId }) => workflowId)).toEqual(['checkpoint:listed-2:1']);
    expect(recent.map(({ workflowId }) => workflowId)).toEqual(['checkpoint:listed-2:1']);
    expect(named.map(({ container }) => container)).toEqual(['default/listed']);
    await expect(client.list({ node: 'a" OR "1"="1' })).rejects.toMatchObject({ type: 'InvalidInput' });
  });

  it.concurrent('ends a question that nobody answers in time', async () => {
    harness.script('listCopies:unanswered', { steps: { listCopies: untilCancelled } });
    const asked = { workflowId: 'listCopies:unanswered', executionTimeoutMs: 1500 };

    const question = await client.listCopies({ node: NODE, timeouts: TIMEOUTS }, asked);

    await expect(question.result()).rejects.toMatchObject({ cause: { name: 'TimeoutFailure' } });
  });

  it.concurrent('refuses bad input before anything is started', async () => {
    const start = async (): Promise<unknown> => client.checkpoint({ ...request('x'), after: 'sleep' as never });

    await expect(start()).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining('after: ') as string,
    });
  });

  it.concurrent('joins the running operation of the same generation, and the completed one', async () => {
    const { script, open } = gate();
    harness.script('checkpoint:same:7', { steps: { planCheckpoint: script } });
    const reached = harness.reached('checkpoint:same:7', 'planCheckpoint');

    const first = await client.checkpoint(request('same'), { generation: '7' });
    await reached;
    const second = await client.checkpoint(request('same'), { generation: '7' });
    open();
    const result = await first.result();
    const third = await client.checkpoint(request('same'), { generation: '7' });

    expect([second.runId, third.runId]).toEqual([first.runId, first.runId]);
    expect(await third.result()).toEqual(result);
  });

  it.concurrent('tries a failed operation of the same generation anew', async () => {
    const workflowId = 'checkpoint:again:1';
    harness.script(workflowId, { steps: { planCheckpoint: fails('Incompatible') } });
    const first = await client.checkpoint(request('again'), { generation: '1' });
    const failure: unknown = await first.result().catch((error: unknown) => error);

    harness.script(workflowId, {});
    const second = await client.checkpoint(request('again'), { generation: '1' });

    expect(isKybernateError(failure, 'Incompatible')).toBe(true);
    expect(second.runId).not.toBe(first.runId);
    await expect(second.result()).resolves.toMatchObject({ source: 'running' });
  });

  it.concurrent('tells the progress, cancels, and finds what others started', async () => {
    harness.script('others', { steps: { captureContainer: untilCancelled } });
    const reached = harness.reached('others', 'captureContainer');
    await client.checkpoint(request('others'), { workflowId: 'others' });
    await reached;

    const operation = await client.find('others');
    const progress = await operation.progress();
    await operation.cancel();
    const end: unknown = await operation.result().catch((error: unknown) => error);

    expect(progress).toMatchObject({ phase: 'capturing', container: 'default/others' });
    expect(end).toMatchObject({ cause: { name: 'CancelledFailure' } });
    await expect(client.find('nobody')).rejects.toMatchObject({ name: 'WorkflowNotFoundError' });
  });
});

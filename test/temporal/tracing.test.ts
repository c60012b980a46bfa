/* Traces of workflows: one for an operation, without a change of what it does or of how it is replayed. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { historyFromJSON } from '@temporalio/common/lib/proto-utils.js';
import { Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import type { OperationProgress } from '../../core/contract/progress.ts';
import { span } from '../../core/spans.ts';
import { workflowBundlePath } from '../../workers/build-bundle.ts';
import { startTracing, type Tracing } from '../../workers/tracing.ts';
import { openOtlpReceiver, type OtlpReceiver, type ReceivedSpan } from '../harness/otlp-receiver.ts';
import '../harness/provided.ts';
import { openHarness } from './harness.ts';
import { NODE, TIMEOUTS } from './requests.ts';

const HISTORIES = join(import.meta.dirname, '..', 'histories');
/** The operation finds an id for its checkpoint by itself. */
const request = (id: string): object => ({ node: NODE, container: { id }, timeouts: TIMEOUTS });

let receiver: OtlpReceiver;
let tracing: Tracing;
/** ids that an operation gave its checkpoint, and what a worker of the other kind finds when it replays it */
const ids: Record<'traced' | 'plain', { given: string; replayed: string | undefined }> = {
  traced: { given: '', replayed: undefined },
  plain: { given: '', replayed: undefined },
};
let trace: readonly ReceivedSpan[] = [];

beforeAll(async () => {
  receiver = await openOtlpReceiver();
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url };
  tracing = await startTracing({ service: 'kybernate-control', env });
  const server = inject('temporal');

  const traced = await openHarness({ server, tracing });
  await span('kybernate checkpoint', {}, async () => {
    const handle = await traced.start('checkpoint', 'traced-1', {}, request('traced-1'));
    ids.traced.given = ((await handle.result()) as { checkpointId: string }).checkpointId;
    await handle.query('progress');
  });
  await traced.close();

  const plain = await openHarness({ server });
  const handle = await plain.start('checkpoint', 'plain-1', {}, request('plain-1'));
  ids.plain.given = ((await handle.result()) as { checkpointId: string }).checkpointId;
  ids.traced.replayed = await checkpointIdOf(plain, 'traced-1');
  await plain.close();

  const again = await openHarness({ server, tracing });
  ids.plain.replayed = await checkpointIdOf(again, 'plain-1');
  await again.close();
  await tracing.close();
  const root = receiver.spans.find(({ name }) => name === 'kybernate checkpoint');
  trace = receiver.spans.filter(({ traceId }) => traceId === root?.traceId);
});
afterAll(() => receiver.close());

/** A query of an operation that has ended replays it. */
async function checkpointIdOf(
  harness: Awaited<ReturnType<typeof openHarness>>,
  workflowId: string,
): Promise<string | undefined> {
  const progress = await harness.client.workflow.getHandle(workflowId).query<OperationProgress>('progress');
  return progress.checkpointId;
}

const named = (name: string): ReceivedSpan => {
  const found = trace.filter((one) => one.name === name);
  expect(found.map((one) => one.name)).toEqual([name]);
  return found[0]!;
};

describe('the trace of a checkpoint', () => {
  it.each(['probeNode', 'requestLock', 'captureContainer', 'uploadImage', 'publishManifest'])(
    'has the step %s below its workflow, and that below the command',
    (step) => {
      expect(receiver.ancestry(named(`RunActivity:${step}`))).toEqual([
        `RunActivity:${step}`,
        `StartActivity:${step}`,
        'RunWorkflow:checkpoint',
        'StartWorkflow:checkpoint',
        'kybernate checkpoint',
      ]);
    },
  );

  it('covers the workflow with its span', () => {
    const workflow = named('RunWorkflow:checkpoint');
    const steps = trace.filter(({ name }) => name.startsWith('RunActivity:'));

    expect(steps.length).toBeGreaterThan(8);
    // The clock of a workflow stands still between two of its tasks.
    expect(Math.min(...steps.map(({ startMs }) => startMs))).toBeGreaterThan(workflow.startMs - 1000);
    expect(trace.filter(({ failed }) => failed)).toEqual([]);
  });

  it('has neither questions nor locks, which outlive it', () => {
    expect(
      receiver.spans.map(({ name }) => name).filter((name) => /Query|Lock(?!:)|reportProgress/.test(name)),
    ).toEqual(
      receiver.spans.map(({ name }) => name).filter((name) => /Activity:requestLock|Signal\w*:\w*Lock/.test(name)),
    );
    expect(receiver.spans.filter(({ name }) => name === 'RunWorkflow:containerLock')).toEqual([]);
  });
});

describe('a worker that is started with other traces than the last', () => {
  it('finds the checkpoint id that the operation gave, with traces off', () => {
    expect(ids.traced.replayed).toBe(ids.traced.given);
  });

  it('finds it with traces on', () => {
    expect(ids.plain.replayed).toBe(ids.plain.given);
  });

  it('replays every recorded history without a difference', async () => {
    const names = readdirSync(HISTORIES).filter((name) => name.endsWith('.json'));
    const histories = names.map((name) => {
      const { history } = JSON.parse(readFileSync(join(HISTORIES, name), 'utf8')) as { history: unknown };
      return { workflowId: name, history: historyFromJSON(history) };
    });
    const options = { workflowBundle: { codePath: await workflowBundlePath('traced') }, sinks: tracing.sinks };

    const differences: string[] = [];
    let replayed = 0;
    for await (const { workflowId, error } of Worker.runReplayHistories(options, histories)) {
      replayed += 1;
      if (error !== undefined) {
        differences.push(`${workflowId}: ${error.message}`);
      }
    }

    expect(differences).toEqual([]);
    expect(replayed).toBe(names.length);
  });
});

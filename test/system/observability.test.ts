/* One checkpoint and one restore, as those see them who watch: a trace through all processes, metrics, logs. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { findDaemon } from '../../cli/dev/process.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { COUNTER } from '../harness/aftermath.ts';
import { openOtlpReceiver, type OtlpReceiver, type ReceivedSpan } from '../harness/otlp-receiver.ts';
import { BUSYBOX, Stack, until } from '../harness/stack.ts';

const DAEMONS = ['worker-control', 'worker-node', 'sidecar'] as const;
type Daemon = (typeof DAEMONS)[number];
type Line = Readonly<Record<string, unknown>> & { readonly msg?: string };

const CLI = join(import.meta.dirname, '../../cli/main.ts');

let receiver: OtlpReceiver;
let stack: Stack;
let checkpointTrace = '';
let restoreTrace = '';
let text: Record<Daemon, string>;

beforeAll(async () => {
  receiver = await openOtlpReceiver();
  stack = await Stack.open({
    store: 's3',
    env: {
      KYBERNATE_LOG_LEVEL: 'info',
      KYBERNATE_METRICS_ADDRESS: '127.0.0.1:0',
      OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url,
      OTEL_BSP_SCHEDULE_DELAY: '200',
    },
  });
  await stack.runContainer('watched', BUSYBOX, COUNTER);
  checkpointTrace = await kybernate('checkpoint', 'watched', '--namespace', stack.namespace, '--id', 'ck-w');
  stack.removeLocal('ck-w');
  restoreTrace = await kybernate('restore', 'ck-w', '--name', 'watched-again');
  text = Object.fromEntries(
    await Promise.all(DAEMONS.map(async (name) => [name, await metricsOf(name)])),
  ) as typeof text;
});
afterAll(async () => {
  await stack.removeContainer('watched-again');
  await stack.close();
  await receiver.close();
});

/** A command of a user whose own program has a trace. @returns its id */
async function kybernate(...args: string[]): Promise<string> {
  const traceId = randomBytes(16).toString('hex');
  const { exitCode, stderr } = await runExeca(process.execPath, [CLI, ...args, '--node', stack.node, '--json'], {
    env: {
      ...stack.variables,
      PATH: process.env['PATH'] ?? '',
      TRACEPARENT: `00-${traceId}-${randomBytes(8).toString('hex')}-01`,
    },
  });
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  return traceId;
}

function linesOf(name: Daemon): Line[] {
  const { logFile = '' } = findDaemon(stack.dir, name) ?? {};
  return readFileSync(logFile, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Line);
}

async function metricsOf(name: Daemon): Promise<string> {
  const { address } = linesOf(name).find(({ msg }) => msg === 'metrics can be read') ?? {};
  return (await fetch(`http://${String(address)}/metrics`)).text();
}

/** Waits for what the processes send once in a while. */
async function spanOf(traceId: string, name: string, service?: string): Promise<ReceivedSpan> {
  const find = (): ReceivedSpan | undefined =>
    receiver.spans.find(
      (one) => one.traceId === traceId && one.name === name && (service ?? one.service) === one.service,
    );
  await until(`the span ${name}`, () => find() !== undefined);
  return find()!;
}

describe('the trace', () => {
  it.each([
    ['StartWorkflow:checkpoint', 'kybernate', []],
    ['RunWorkflow:checkpoint', 'kybernate-control', ['StartWorkflow:checkpoint']],
    ['freeze', 'kybernate-node', ['RunActivity:captureContainer', 'StartActivity:captureContainer']],
    ['runner dumped', 'kybernate-node', ['RunActivity:captureContainer', 'StartActivity:captureContainer']],
    ['store put', 'kybernate-sidecar', ['RunActivity:uploadImage', 'StartActivity:uploadImage']],
  ])('of a checkpoint has %s, told by %s', async (name, service, above) => {
    const found = await spanOf(checkpointTrace, name, service);
    await spanOf(checkpointTrace, 'kybernate checkpoint');
    await spanOf(checkpointTrace, 'RunWorkflow:checkpoint');

    const [, ...parents] = receiver.ancestry(found);
    expect(parents.slice(0, above.length)).toEqual(above);
    expect(parents.at(-1)).toBe('kybernate checkpoint');
  });

  it.each([
    ['wrapper runc', 'kybernate-node', ['RunActivity:startRestored', 'StartActivity:startRestored']],
    ['complete restore', 'kybernate-node', ['RunActivity:startRestored', 'StartActivity:startRestored']],
    ['store get', 'kybernate-sidecar', ['RunActivity:']],
  ])('of a restore has %s, told by %s', async (name, service, above) => {
    const found = await spanOf(restoreTrace, name, service);
    await spanOf(restoreTrace, 'kybernate restore');
    await spanOf(restoreTrace, 'RunWorkflow:restore');

    const [, ...parents] = receiver.ancestry(found);
    above.forEach((start, at) => expect(parents[at]).toMatch(new RegExp(`^${start}`)));
    expect(parents.at(-1)).toBe('kybernate restore');
  });

  it('has times that fit: the freeze lies inside of its step, and nothing failed', async () => {
    const freeze = await spanOf(checkpointTrace, 'freeze');
    const step = await spanOf(checkpointTrace, 'RunActivity:captureContainer');

    expect(freeze.startMs).toBeGreaterThan(step.startMs - 5);
    expect(freeze.endMs).toBeLessThan(step.endMs + 5);
    expect(receiver.spans.filter(({ failed, traceId }) => failed && traceId === checkpointTrace)).toEqual([]);
  });
});

/** Sum over all series of the name that have these labels; NaN when nobody tells one. */
function valueOf(name: Daemon, metric: string, labels: Readonly<Record<string, string>> = {}): number {
  const series = text[name]
    .split('\n')
    .filter((line) => line.startsWith(`${metric}{`))
    .filter((line) => Object.entries(labels).every(([label, value]) => line.includes(`${label}="${value}"`)));
  return series.length === 0 ? Number.NaN : series.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

describe('the metrics', () => {
  it('of the control worker count operations by outcome, and their phases', () => {
    const labels = { operation: 'checkpoint', outcome: 'Completed' };

    expect(valueOf('worker-control', 'kybernate_operations_total', { ...labels, source_node: stack.node })).toBe(1);
    expect(valueOf('worker-control', 'kybernate_operation_seconds_bucket', { ...labels, le: '7200' })).toBe(1);
    expect(valueOf('worker-control', 'kybernate_phase_seconds_count', { phase: 'uploading' })).toBe(1);
    expect(valueOf('worker-control', 'temporal_worker_task_slots_available')).toBeGreaterThan(0);
  });

  it('of the node tell freeze, sizes and what it holds', () => {
    expect(valueOf('worker-node', 'kybernate_freeze_seconds_count', { node: stack.node })).toBe(1);
    expect(valueOf('worker-node', 'kybernate_capture_part_seconds_count', { part: 'prepare' })).toBe(1);
    expect(valueOf('worker-node', 'kybernate_checkpoint_bytes_count')).toBe(1);
    expect(valueOf('worker-node', 'kybernate_restore_seconds_count', { how: 'restored' })).toBe(1);
    expect(valueOf('worker-node', 'kybernate_fetched_bytes_total')).toBeGreaterThan(1000);
    expect(valueOf('worker-node', 'kybernate_local_checkpoints', { upload: 'none' })).toBe(1);
    expect(valueOf('worker-node', 'kybernate_node_operations', { state: 'standing-still' })).toBe(0);
    expect(valueOf('worker-node', 'kybernate_state_free_bytes')).toBeGreaterThan(0);
    expect(valueOf('worker-node', 'kybernate_leftovers')).toBe(0);
  });

  it('of the sidecar tell requests and bytes of the store', () => {
    const put = { request: 'put', outcome: 'ok' };

    expect(valueOf('sidecar', 'kybernate_store_request_seconds_count', put)).toBeGreaterThan(2);
    expect(valueOf('sidecar', 'kybernate_store_bytes_total', { direction: 'up' })).toBeGreaterThan(1000);
    expect(valueOf('sidecar', 'kybernate_store_bytes_total', { direction: 'down' })).toBeGreaterThan(1000);
    expect(valueOf('sidecar', 'kybernate_moved_bytes_total', { phase: 'uploading' })).toBeGreaterThan(1000);
    expect(valueOf('sidecar', 'kybernate_uploaded_bytes_total')).toBeGreaterThan(1000);
  });
});

describe('the logs', () => {
  const KEYS = ['operationId', 'workflowId', 'runId', 'checkpointId', 'container', 'node', 'durationMs'];

  it('have one summary an operation, whose phases add up', async () => {
    await until('the summaries', () => linesOf('worker-control').filter(isSummary).length === 2);
    for (const summary of linesOf('worker-control').filter(isSummary)) {
      const phases = Object.values(summary['phases'] as Record<string, number>);
      const sum = phases.reduce((total, ms) => total + ms, 0) + Number(summary['unaccountedMs']);

      expect(Object.keys(summary)).toEqual(expect.arrayContaining(KEYS));
      expect(sum).toBe(summary['durationMs']);
      expect(Number(summary['unaccountedMs'])).toBeLessThan(Number(summary['durationMs']) / 2);
      expect(summary['bytes']).toBeGreaterThan(0);
    }
  });

  it('of runner and wrapper are in the log of the node worker, under the id of their operation', async () => {
    const [checkpoint, restore] = linesOf('worker-control').filter(isSummary);
    // Other nodes of this run have had the same directory, and may have left lines behind.
    const said = (by: string, operation: Line | undefined): Line | undefined =>
      linesOf('worker-node').find(
        (line) => line['process'] === by && line['operationId'] === operation?.['operationId'],
      );
    await until(
      'their lines',
      () => said('wrapper', restore) !== undefined && said('runner', checkpoint) !== undefined,
    );

    expect(said('runner', checkpoint)).toMatchObject({ checkpointId: 'ck-w' });
    expect(said('wrapper', restore)).toMatchObject({
      container: `${stack.namespace}/watched-again`,
      msg: 'restore restored',
    });
    expect(linesOf('worker-node').find(({ msg }) => msg === 'captured')).toMatchObject({
      operationId: checkpoint?.['operationId'],
      runId: checkpoint?.['runId'],
      container: `${stack.namespace}/watched`,
    });
  });

  it('have no key twice in a line', () => {
    for (const name of DAEMONS) {
      const { logFile = '' } = findDaemon(stack.dir, name) ?? {};
      const lines = readFileSync(logFile, 'utf8').split('\n');
      const twice = lines.filter((line) =>
        ['process', 'node', 'runId'].some((key) => line.split(`,"${key}":`).length > 2),
      );

      expect(twice).toEqual([]);
    }
  });
});

function isSummary({ msg }: Line): boolean {
  return msg === 'operation ended';
}

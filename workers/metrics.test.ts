import { createServer, type Server } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { METRICS } from '../core/metrics.ts';
import type { Logger } from '../core/op.ts';
import { startMetrics, type Metrics } from './metrics.ts';

const silent = (): void => undefined;
const log: Logger = { debug: silent, info: silent, warn: silent, error: silent };

const opened: Metrics[] = [];
let sdk: Server | undefined;

afterEach(async () => {
  await Promise.all(opened.splice(0).map((metrics) => metrics.close()));
  sdk?.close();
  sdk = undefined;
});

async function start(process: 'node' | 'sidecar' = 'node', address = '127.0.0.1:0'): Promise<Metrics> {
  const metrics = await startMetrics({ address, process, node: 'n-1', log });
  opened.push(metrics);
  return metrics;
}

async function read({ address }: Metrics, path = '/metrics'): Promise<{ status: number; text: string }> {
  const answer = await fetch(`http://${address}${path}`);
  return { status: answer.status, text: await answer.text() };
}

describe('the metrics of a process', () => {
  it('are those of its rows of the table, each with its help, and no other', async () => {
    const { text } = await read(await start());

    const told = [...text.matchAll(/^# TYPE (\w+) (\w+)$/gm)].map(([, name, kind]) => `${name} ${kind}`);
    const rows = Object.entries(METRICS).filter(([, row]) => (row.processes as readonly string[]).includes('node'));
    expect(told.toSorted()).toEqual(rows.map(([name, row]) => `${name} ${row.kind}`).toSorted());
    expect(text).toContain('# HELP kybernate_freeze_seconds How long a workload stood still');
  });

  it('carry the node, the labels and the buckets', async () => {
    const metrics = await start();
    metrics.meter.add('kybernate_guard_actions_total', { cause: 'freeze-budget' }, 2);
    metrics.meter.observe('kybernate_freeze_seconds', {}, 0.3);

    const { text } = await read(metrics);

    expect(text).toContain('kybernate_guard_actions_total{cause="freeze-budget",node="n-1"} 2');
    expect(text).toContain('kybernate_freeze_seconds_bucket{le="0.25",node="n-1"} 0');
    expect(text).toContain('kybernate_freeze_seconds_bucket{le="0.5",node="n-1"} 1');
  });

  it('ask for the values of gauges when they are read, and tell no value that is gone', async () => {
    const metrics = await start('sidecar');
    let tiers = ['ram', 'nvme'];
    metrics.meter.gauge('kybernate_tier_bytes', async () => tiers.map((tier) => ({ labels: { tier }, value: 7 })));

    const before = await read(metrics);
    tiers = ['ram'];
    const after = await read(metrics);

    expect(before.text).toContain('kybernate_tier_bytes{tier="nvme",node="n-1"} 7');
    expect(after.text).toContain('kybernate_tier_bytes{tier="ram",node="n-1"} 7');
    expect(after.text).not.toContain('tier="nvme"');
  });

  it('are told but for the one that cannot be read', async () => {
    const metrics = await start('sidecar');
    metrics.meter.gauge('kybernate_tier_bytes', () => Promise.reject(new Error('ENOENT')));
    metrics.meter.gauge('kybernate_tier_limit_bytes', async () => [{ labels: { tier: 'ram' }, value: 9 }]);

    const { status, text } = await read(metrics);

    expect(status).toBe(200);
    expect(text).toContain('kybernate_tier_limit_bytes{tier="ram",node="n-1"} 9');
    expect(text).not.toMatch(/^kybernate_tier_bytes\{/m);
  });

  it("are followed by those of Temporal's SDK once it answers", async () => {
    const metrics = await start();
    const before = await read(metrics);
    const [host = '', port = ''] = (metrics.sdkAddress ?? '').split(':');
    sdk = createServer((_request, response) => response.end('temporal_request 4\n'));
    await new Promise<void>((resolve) => sdk?.listen(Number(port), host, resolve));

    expect(before.status).toBe(200);
    expect((await read(metrics)).text).toMatch(/kybernate_poisoned_total\S* 0[^]*temporal_request 4/);
  });

  it('have one path', async () => {
    expect(await read(await start(), '/')).toMatchObject({ status: 404 });
  });

  it('cannot be read at an address that is taken: its variable is named', async () => {
    const { address } = await start();

    await expect(start('node', address)).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining('KYBERNATE_METRICS_ADDRESS') as string,
    });
  });

  it('of nobody who reads cost nothing: no server, and what is counted is dropped', async () => {
    const metrics = await startMetrics({ address: undefined, process: 'node', node: 'n-1', log });

    metrics.meter.add('kybernate_poisoned_total', {});

    expect(metrics).toMatchObject({ address: undefined, sdkAddress: undefined });
  });
});

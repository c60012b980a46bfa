/*
 * The metrics of one process: ours, by prom-client, and those of Temporal's SDK, which has a server of its own for them.
 * Both are read from one address, `GET /metrics`. prom-client is loaded only where an address is set.
 */
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { createServer as createProbe, type AddressInfo } from 'node:net';
import type { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { KybernateError, messageOf } from '../core/errors.ts';
import {
  METRICS,
  NO_METER,
  type GaugeName,
  type GaugeValue,
  type Meter,
  type MetricName,
  type MetricProcess,
} from '../core/metrics.ts';
import type { Logger } from '../core/op.ts';
import { listenAt } from './listen-at.ts';

/** Temporal's server is in this process: it answers at once or never. */
const SDK_MS = 2000;

export interface MetricsParts {
  /** `host:port`; undefined: nobody reads */
  readonly address: string | undefined;
  /** whose rows of the table are registered */
  readonly process: MetricProcess;
  readonly node: string;
  readonly log: Logger;
}

export interface Metrics {
  readonly meter: Meter;
  /** where they are read; undefined: nowhere */
  readonly address: string | undefined;
  /** where Temporal's SDK is to answer, on loopback; undefined: nowhere */
  readonly sdkAddress: string | undefined;
  close(): Promise<void>;
}

const NONE: Metrics = {
  meter: NO_METER,
  address: undefined,
  sdkAddress: undefined,
  close: () => Promise.resolve(),
};

/** @throws InvalidInput the address is taken, or not of this machine */
export async function startMetrics(parts: MetricsParts): Promise<Metrics> {
  const { address, node, log } = parts;
  if (address === undefined) {
    return NONE;
  }
  const { Registry } = await import('prom-client');
  const registry = new Registry();
  registry.setDefaultLabels({ node });
  const meter = await registered(registry, parts.process, log);
  const sdkAddress = await freeLoopback();
  const text = async (): Promise<string> => `${await registry.metrics()}\n${await sdkText(sdkAddress, log)}`;
  const server = createServer((request, response) => {
    if (request.method !== 'GET' || request.url?.split('?')[0] !== '/metrics') {
      response.writeHead(404).end('GET /metrics\n');
      return;
    }
    answer(response, registry.contentType, text, log).catch(() => undefined);
  });
  const bound = await listenAt(server, address, 'KYBERNATE_METRICS_ADDRESS');
  log.info({ address: bound }, 'metrics can be read');
  return {
    meter,
    address: bound,
    sdkAddress,
    async close() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

async function answer(
  response: ServerResponse,
  contentType: string,
  text: () => Promise<string>,
  log: Logger,
): Promise<void> {
  try {
    const body = await text();
    response.writeHead(200, { 'content-type': contentType }).end(body);
  } catch (error) {
    log.warn({ error: messageOf(error) }, 'metrics cannot be read');
    response.writeHead(500).end(`${messageOf(error)}\n`);
  }
}

async function registered(registry: Registry, process: MetricProcess, log: Logger): Promise<Meter> {
  const { Counter, Gauge, Histogram } = await import('prom-client');
  const counters = new Map<string, Counter>();
  const histograms = new Map<string, Histogram>();
  const gauges = new Map<string, Gauge>();
  const readers = new Map<string, () => Promise<ReadonlyArray<GaugeValue<GaugeName>>>>();
  for (const [name, row] of Object.entries(METRICS)) {
    if (!(row.processes as readonly MetricProcess[]).includes(process)) {
      continue;
    }
    const common = { name, help: row.help, labelNames: [...row.labels], registers: [registry] };
    switch (row.kind) {
      case 'counter':
        counters.set(name, new Counter(common));
        break;
      case 'histogram':
        histograms.set(name, new Histogram({ ...common, buckets: [...row.buckets] }));
        break;
      case 'gauge':
        gauges.set(
          name,
          new Gauge({ ...common, collect: () => collectGauge(gauges.get(name), readers.get(name), log) }),
        );
        break;
    }
  }
  const known = <Metric>(of: ReadonlyMap<string, Metric>, name: MetricName): Metric => {
    const metric = of.get(name);
    if (metric === undefined) {
      throw new KybernateError('Internal', `${name} is no metric of the ${process} process`);
    }
    return metric;
  };
  return {
    add: (name, labels, by = 1) => known(counters, name).inc({ ...labels }, by),
    observe: (name, labels, value) => known(histograms, name).observe({ ...labels }, value),
    gauge(name, read) {
      readers.set(name, read);
    },
  };
}

/** What is not there any more, or cannot be read, is not told any more; the other metrics are. */
async function collectGauge(
  gauge: Gauge | undefined,
  read: (() => Promise<ReadonlyArray<GaugeValue<GaugeName>>>) | undefined,
  log: Logger,
): Promise<void> {
  let values: ReadonlyArray<GaugeValue<GaugeName>> = [];
  try {
    values = (await read?.()) ?? [];
  } catch (error) {
    log.warn({ error: messageOf(error) }, 'a metric cannot be read');
  }
  gauge?.reset();
  for (const { labels, value } of values) {
    gauge?.set({ ...labels }, value);
  }
}

/** Nothing is told of Temporal while its server does not answer: ours count more than theirs. */
async function sdkText(address: string, log: Logger): Promise<string> {
  try {
    const answered = await fetch(`http://${address}/metrics`, { signal: AbortSignal.timeout(SDK_MS) });
    return await answered.text();
  } catch (error) {
    log.debug({ error: messageOf(error) }, "the metrics of Temporal's SDK cannot be read");
    return '';
  }
}

/** The SDK cannot tell which port it was given, so one is chosen for it. */
async function freeLoopback(): Promise<string> {
  const probe = createProbe();
  probe.listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  await new Promise<void>((resolve) => probe.close(() => resolve()));
  return `127.0.0.1:${port}`;
}

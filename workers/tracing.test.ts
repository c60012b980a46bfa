import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { startTracing, tracesUrl } from './tracing.ts';

describe('the address of traces', () => {
  it.each([
    ['nothing', {}, undefined],
    ['an empty variable', { OTEL_EXPORTER_OTLP_ENDPOINT: '' }, undefined],
    ['the endpoint', { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c:4318' }, 'http://c:4318/v1/traces'],
    ['an endpoint with a path', { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c/otlp/' }, 'http://c/otlp/v1/traces'],
    [
      'an endpoint of traces alone, as it is',
      { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c', OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://t/here' },
      'http://t/here',
    ],
    ['a disabled SDK', { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c', OTEL_SDK_DISABLED: 'true' }, undefined],
    ['no exporter', { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://c', OTEL_TRACES_EXPORTER: 'none' }, undefined],
  ])('of %s', (_title, env, url) => {
    expect(tracesUrl(env)).toBe(url);
  });
});

describe('without an address', () => {
  it('nothing is intercepted', async () => {
    expect(await startTracing({ service: 'kybernate', env: {} })).toMatchObject({
      on: false,
      activity: [],
      client: [],
    });
  });

  it('no worker loads OpenTelemetry or a registry of metrics', () => {
    const script = `
      const { startTracing } = await import('./workers/tracing.ts');
      const { startMetrics } = await import('./workers/metrics.ts');
      await import('./workers/node.ts');
      await import('./workers/control.ts');
      await import('./workers/sidecar.ts');
      await startTracing({ service: 'kybernate-node', env: {} });
      await startMetrics({ address: undefined, process: 'node', node: 'n', log: undefined });
      const { createRequire } = await import('node:module');
      const loaded = Object.keys(createRequire(process.cwd() + '/x.js').cache);
      console.log(loaded.length > 100, loaded.filter((file) => /@opentelemetry|interceptors-opentelemetry|prom-client/.test(file)));
    `;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      cwd: join(import.meta.dirname, '..'),
      encoding: 'utf8',
    });

    expect({ stdout, stderr }).toEqual({ stdout: 'true []\n', stderr: '' });
  }, 30_000);
});

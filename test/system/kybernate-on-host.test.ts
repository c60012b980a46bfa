/* The command of the chart's node worker: what a pod has, and the node has not, is there when the worker runs on the node. */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';

import { runExeca } from '../../native/run/run-execa.ts';
import { ROOT } from '../../tools/check-steps.ts';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'on-host-'));
  mkdirSync(join(dir, 'bin'));
  mkdirSync(join(dir, 'host/current/bin'), { recursive: true });
  copyFileSync(join(ROOT, 'tools/image/kybernate-on-host'), join(dir, 'bin/kybernate-on-host'));
  symlinkSync(process.execPath, join(dir, 'bin/node'));
  const command = join(dir, 'host/current/bin/kybernate');
  writeFileSync(command, '#!/bin/sh\necho "args=$*"\nenv\n');
  chmodSync(command, 0o755);
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** In a mount namespace that is as good as any node's: our own. @returns the environment of the command */
async function onHost(env: Readonly<Record<string, string>>): Promise<ReadonlyMap<string, string>> {
  const result = await runExeca('/bin/sh', [join(dir, 'bin/kybernate-on-host'), 'worker', 'node'], {
    timeoutMs: 30_000,
    env: {
      PATH: process.env['PATH'] ?? '',
      KYBERNATE_HOST_PID: String(process.pid),
      KYBERNATE_HOST_DIR: join(dir, 'host'),
      KYBERNATE_RUN_DIR: join(dir, 'run'),
      KYBERNATE_KEYS_DIR: join(dir, 'keys'),
      ...env,
    },
  });
  expect({ exitCode: result.exitCode, stderr: result.stderr }).toEqual({ exitCode: 0, stderr: '' });
  const lines = result.stdout.split('\n').map((line) => /^(\w+)=(.*)$/.exec(line));
  return new Map(lines.flatMap((match) => (match === null ? [] : [[match[1] ?? '', match[2] ?? ''] as const])));
}

it.each([
  ['a name of the pod alone', 'localhost:7233', /^(127\.0\.0\.1|\[::1\]):7233$/],
  ['a name that the node knows', 'temporal.example.com:7233', /^temporal\.example\.com:7233$/],
  ['an address', '10.0.0.7:7233', /^10\.0\.0\.7:7233$/],
])('Temporal and the collector of traces are reached by %s', async (_what, place, wanted) => {
  const env = await onHost({ TEMPORAL_ADDRESS: place, OTEL_EXPORTER_OTLP_ENDPOINT: `http://${place}/otlp` });

  expect(env.get('args')).toBe('worker node');
  expect(env.get('TEMPORAL_ADDRESS')).toMatch(wanted);
  const [, collector = '', path] = /^http:\/\/([^/]+)(\/.*)$/.exec(env.get('OTEL_EXPORTER_OTLP_ENDPOINT') ?? '') ?? [];
  expect(collector).toMatch(wanted);
  expect(path).toBe('/otlp');
});

it('traces by https keep the name that their certificate is for, and none are none', async () => {
  const secure = await onHost({ OTEL_EXPORTER_OTLP_ENDPOINT: 'https://localhost:4318' });
  const without = await onHost({});

  expect(secure.get('OTEL_EXPORTER_OTLP_ENDPOINT')).toBe('https://localhost:4318');
  expect(without.has('OTEL_EXPORTER_OTLP_ENDPOINT')).toBe(false);
});

it('keys of a secret are where the worker sees them, for root alone, as long as the pod has them', async () => {
  // As the kubelet lays out a volume of a secret.
  mkdirSync(join(dir, 'keys/signing/..data'), { recursive: true });
  writeFileSync(join(dir, 'keys/signing/..data/signing.pem'), 'a key', { mode: 0o440 });
  symlinkSync('..data/signing.pem', join(dir, 'keys/signing/signing.pem'));
  const copy = join(dir, 'run/keys/signing/signing.pem');

  await onHost({});
  expect(readFileSync(copy, 'utf8')).toBe('a key');
  expect(statSync(copy).mode & 0o077).toBe(0);
  expect(statSync(join(dir, 'run/keys')).mode & 0o077).toBe(0);

  rmSync(join(dir, 'keys'), { recursive: true });
  await onHost({});
  expect(existsSync(copy)).toBe(false);
});

it('finds what the node lacks in its own tree, behind what the node has', async () => {
  const tree = join(dir, 'tree/bin');
  mkdirSync(tree, { recursive: true });
  copyFileSync(join(ROOT, 'tools/image/kybernate'), join(tree, 'kybernate'));
  writeFileSync(join(tree, 'node'), '#!/bin/sh\necho "$PATH"\n');
  chmodSync(join(tree, 'node'), 0o755);
  const result = await runExeca('/bin/sh', [join(tree, 'kybernate'), 'doctor'], { env: { PATH: '/usr/bin:/bin' } });
  expect(result.stdout.trim()).toBe(`/usr/bin:/bin:${tree}`);
});

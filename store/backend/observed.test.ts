import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Meter } from '../../core/metrics.ts';
import type { Backend } from './backend.ts';
import { openLocalBackend } from './local.ts';
import { observed } from './observed.ts';

let dir = '';
let backend: Backend;
let counted: string[] = [];
let bytes: Record<string, number> = {};

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'observed-'));
  counted = [];
  bytes = {};
  const meter: Meter = {
    add: (_name, labels, by = 1) => {
      const { direction } = labels as { direction: string };
      bytes[direction] = (bytes[direction] ?? 0) + by;
    },
    observe: (_name, labels) => counted.push(Object.values(labels as object).join(' ')),
    gauge: () => undefined,
  };
  backend = observed(await openLocalBackend(join(dir, 'store')), meter);
});

afterEach(() => rm(dir, { recursive: true, force: true }));

it('every request is counted once with its outcome, and the bytes of those that moved some', async () => {
  await backend.put('a', new Uint8Array(100));
  await backend.putIfAbsent('a', new Uint8Array(100));
  await backend.get('a', { range: { offset: 0, bytes: 40 } });
  await backend.get('absent');
  await backend.head('a');
  for await (const { key } of backend.list('')) {
    expect(key).toBe('a');
  }
  await backend.delete('a');
  await expect(backend.get('../a')).rejects.toMatchObject({ type: 'InvalidInput' });
  await expect(backend.get('a', { signal: AbortSignal.abort() })).rejects.toThrow();

  expect(counted).toEqual([
    'put ok',
    'put ok',
    'get ok',
    'get ok',
    'head ok',
    'list ok',
    'delete ok',
    'get InvalidInput',
    'get cancelled',
  ]);
  expect(bytes).toEqual({ up: 100, down: 40 });
});

import { expect, it } from 'vitest';
import type { CriState } from '../../native/containerd/cri.ts';
import { criRow } from './doctor-cri.ts';

const loaded = (...handlers: string[]): CriState => ({
  plugin: 'loaded',
  runtimes: new Map(handlers.map((handler) => [handler, undefined])),
});

it.each<[string, CriState, string, RegExp]>([
  ['runs no pods', { plugin: 'off' }, 'ok', /no pods/],
  ['cannot run pods', { plugin: 'failed', error: 'io.containerd.cri.v1.runtime: no CNI' }, 'fail', /no CNI/],
  ['does not know our runtimes', loaded('runc'), 'warn', /none of our runtimes/],
  ['knows them', loaded('runc', 'kybernate', 'kybernate-gpu'), 'ok', /kybernate, kybernate-gpu/],
])('a containerd that %s', (_title, state, verdict, detail) => {
  const found = criRow(state);

  expect(found).toMatchObject({ state: verdict, detail: expect.stringMatching(detail) as string });
  expect(found.remedy !== undefined).toBe(verdict !== 'ok');
});

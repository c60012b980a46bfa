import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { KybernateClient, OperationHandle } from '../client/index.ts';
import type { PrefetchResult } from '../core/contract/prefetch.ts';
import { KybernateError } from '../core/errors.ts';
import { restoreSources, type RestoreSourcesDeps } from './restore-sources.ts';

const silent = (): void => undefined;
const soon = (): number => performance.now() + 30;

let dir: string;
let started: unknown[][];
let end: PromiseWithResolvers<PrefetchResult>;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sources-'));
  mkdirSync(join(dir, 'ck-1'));
  writeFileSync(join(dir, 'ck-1/metadata.json'), '{}');
  started = [];
  end = Promise.withResolvers();
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function deps(more: Partial<RestoreSourcesDeps> = {}): RestoreSourcesDeps {
  const prefetch: KybernateClient['prefetch'] = (...call) => {
    started.push(call);
    const handle: OperationHandle<PrefetchResult> = {
      workflowId: 'w',
      runId: 'r',
      result: () => end.promise,
      progress: () =>
        Promise.resolve({
          phase: 'fetching',
          node: 'n',
          container: 'c',
          phaseStartedAt: '',
          finished: [],
          bytesDone: 43 * 2 ** 30,
          bytesTotal: 100 * 2 ** 30,
        }),
      cancel: () => Promise.resolve(),
      release: () => Promise.resolve(),
    };
    return Promise.resolve(handle);
  };
  return {
    node: 'n',
    log: { debug: silent, info: silent, warn: silent, error: silent },
    signal: new AbortController().signal,
    client: { prefetch },
    pathOf: (checkpointId) => join(dir, checkpointId),
    fetch: () => Promise.reject(new Error('not by the workflow')),
    verify: () => Promise.reject(new Error('verified')),
    describe: () => Promise.reject(new Error('described')),
    signedOnly: false,
    ...more,
  };
}

describe('a checkpoint of the store', () => {
  it('is brought by one workflow of the node, which an attempt that came too early tells of and the next one joins', async () => {
    const sources = restoreSources(deps());

    await expect(sources.fetchCheckpoint('ck-1', soon())).rejects.toMatchObject({
      type: 'RestorePending',
      message: 'checkpoint ck-1 is on its way: 43 % (43.00 of 100.00 GiB), the next attempt goes on from there',
    });
    const second = sources.fetchCheckpoint('ck-1');
    end.resolve({ checkpointId: 'ck-1', tier: 'local', nodes: [] });

    expect(await second).toBe(join(dir, 'ck-1'));
    expect(started).toEqual([
      [
        { checkpointId: 'ck-1', nodes: ['n'], tier: 'local' },
        { workflowId: 'prefetch:ck-1:restore-on-n', again: true },
      ],
    ]);
    // Every chunk was checked on its way.
    await sources.verifyCheckpoint?.(join(dir, 'ck-1'));
  });

  it('is looked for anew after a failure', async () => {
    const sources = restoreSources(deps());
    const first = sources.fetchCheckpoint('ck-1');
    end.reject(new KybernateError('CheckpointNotFound', 'no'));
    await expect(first).rejects.toMatchObject({ type: 'CheckpointNotFound' });
    end = Promise.withResolvers();
    end.resolve({ checkpointId: 'ck-1', tier: 'local', nodes: [] });

    await sources.fetchCheckpoint('ck-1');

    expect(started).toHaveLength(2);
  });

  it('is brought by the worker itself when Temporal does not answer', async () => {
    const unavailable = Object.assign(new Error('14 UNAVAILABLE'), { code: 14, details: '', metadata: {} });
    const fetched: string[] = [];
    const sources = restoreSources(
      deps({
        client: { prefetch: () => Promise.reject(unavailable) },
        fetch: (checkpointId) => {
          fetched.push(checkpointId);
          return Promise.resolve(join(dir, checkpointId));
        },
      }),
    );

    expect(await sources.fetchCheckpoint('ck-1')).toBe(join(dir, 'ck-1'));
    expect(fetched).toEqual(['ck-1']);
  });
});

describe('a copy on the node', () => {
  it('is read by one caller for all, and not again by the attempt after it, until it is another one', async () => {
    const finish = Promise.withResolvers<void>();
    const read: string[] = [];
    const sources = restoreSources(
      deps({
        verify: (path, op) => {
          read.push(path);
          op.progress({ phase: 'verifying', bytesDone: 1, bytesTotal: 4 });
          return finish.promise;
        },
      }),
    );
    const copy = join(dir, 'ck-1');

    await expect(sources.verifyCheckpoint?.(copy, soon())).rejects.toThrow(/is being checked: 25 %/);
    const next = sources.verifyCheckpoint?.(copy);
    finish.resolve();
    await next;
    await sources.verifyCheckpoint?.(copy);
    expect(read).toEqual([copy]);

    rmSync(join(copy, 'metadata.json'));
    writeFileSync(join(copy, 'metadata.json'), '{ }');
    await sources.verifyCheckpoint?.(copy);
    expect(read).toHaveLength(2);
  });
});

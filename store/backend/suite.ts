/* The contract of backend.ts as tests, run over every backend. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, ObjectInfo } from './backend.ts';

export interface BackendFixture {
  readonly backend: Backend;
  /** makes something half-made, as a writer that dies would leave it */
  readonly leaveHalfMade: () => Promise<void>;
  /** an open backend on a place that does not exist (bucket, directory) */
  readonly missingPlace: Backend;
  /** its error */
  readonly missingPlaceError: 'StorageDenied' | 'StorageUnavailable';
}

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

async function keysOf(entries: AsyncIterable<ObjectInfo>): Promise<string[]> {
  const keys: string[] = [];
  for await (const entry of entries) {
    keys.push(entry.key);
  }
  return keys;
}

/** Declares the conformance tests of one backend; `open` and `close` run once around them. */
export function describeBackend(name: string, open: () => Promise<BackendFixture>, close: () => Promise<void>): void {
  describe(`backend ${name}`, () => {
    let fixture: BackendFixture;
    let backend: Backend;
    beforeAll(async () => {
      fixture = await open();
      backend = fixture.backend;
    });
    afterAll(close);

    it('gives back what was put, and the last of two puts', async () => {
      await backend.put('put/a', text('one'));
      await backend.put('put/a', text('two, longer'));

      expect(await backend.get('put/a')).toEqual(text('two, longer'));
      expect(await backend.head('put/a')).toMatchObject({ key: 'put/a', bytes: 11 });
    });

    it('tells the time of an object within a minute of ours', async () => {
      await backend.put('put/time', text('x'));

      const info = await backend.head('put/time');

      expect(Math.abs((info?.modifiedMs ?? 0) - Date.now())).toBeLessThan(60_000);
    });

    it('keeps an empty object', async () => {
      await backend.put('put/empty', new Uint8Array());

      expect(await backend.get('put/empty')).toEqual(new Uint8Array());
      expect(await backend.get('put/empty', { range: { last: 8 } })).toEqual(new Uint8Array());
      expect((await backend.head('put/empty'))?.bytes).toBe(0);
    });

    it('says absent of what is not there', async () => {
      expect(await backend.get('absent/a')).toBeUndefined();
      expect(await backend.get('absent/a', { range: { offset: 0, bytes: 0 } })).toBeUndefined();
      expect(await backend.head('absent/a')).toBeUndefined();
      expect(await keysOf(backend.list('absent/'))).toEqual([]);
    });

    it.each([
      ['a middle part', { offset: 2, bytes: 3 }, 'cde'],
      ['a range beyond the end', { offset: 8, bytes: 100 }, 'ij'],
      ['a range behind the end', { offset: 10, bytes: 5 }, ''],
      ['no bytes', { offset: 3, bytes: 0 }, ''],
      ['the last bytes', { last: 4 }, 'ghij'],
      ['more last bytes than there are', { last: 40 }, 'abcdefghij'],
    ])('reads %s', async (_, range, expected) => {
      await backend.put('range/a', text('abcdefghij'));

      expect(await backend.get('range/a', { range })).toEqual(text(expected));
      const into = new Uint8Array(64);
      expect(await backend.get('range/a', { range, into })).toEqual(text(expected));
      expect([...into.subarray(expected.length)].every((byte) => byte === 0)).toBe(true);
    });

    it('lets exactly one of eight concurrent putIfAbsent win, and keeps its bytes', async () => {
      const writers = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

      const won = await Promise.all(writers.map((writer) => backend.putIfAbsent('if-absent/a', text(writer))));

      expect(won.filter(Boolean)).toHaveLength(1);
      expect(await backend.get('if-absent/a')).toEqual(text(writers[won.indexOf(true)] ?? ''));
      expect(await backend.putIfAbsent('if-absent/a', text('later'))).toBe(false);
    });

    it('lists by prefix, in byte order, with sizes, across directories', async () => {
      const keys = ['list/a', 'list/a-b', 'list/a/x', 'list/b', 'list/b/y/z', 'list0/c', 'listing'];
      // A directory cannot hold `list/a` and `list/a/x`: those that clash are left out everywhere alike.
      const used = keys.filter((key) => !keys.some((other) => other.startsWith(`${key}/`)));
      await Promise.all(used.map((key) => backend.put(key, text(key))));

      expect(await keysOf(backend.list('list/'))).toEqual(['list/a-b', 'list/a/x', 'list/b/y/z']);
      expect(await keysOf(backend.list('list'))).toEqual(['list/a-b', 'list/a/x', 'list/b/y/z', 'list0/c', 'listing']);
      expect(await keysOf(backend.list('list/', { after: 'list/a-b' }))).toEqual(['list/a/x', 'list/b/y/z']);
      expect(await keysOf(backend.list('list/', { after: 'list/b/y/z' }))).toEqual([]);
      for await (const entry of backend.list('list/a/')) {
        expect(entry).toMatchObject({ key: 'list/a/x', bytes: 8 });
      }
    });

    it('lists more objects than one page holds', async () => {
      const keys = Array.from({ length: 1050 }, (_, index) => `pages/${String(index).padStart(5, '0')}`);
      for (let start = 0; start < keys.length; start += 50) {
        await Promise.all(keys.slice(start, start + 50).map((key) => backend.put(key, text('x'))));
      }

      expect(await keysOf(backend.list('pages/'))).toEqual(keys);
      expect(await keysOf(backend.list('pages/', { after: keys[1020] ?? '' }))).toEqual(keys.slice(1021));
    });

    it('deletes, and deletes again', async () => {
      await backend.put('delete/a', text('x'));

      await backend.delete('delete/a');
      await backend.delete('delete/a');

      expect(await backend.head('delete/a')).toBeUndefined();
    });

    it('keeps objects of 100 MiB whole', async () => {
      const bytes = new Uint8Array(100 * 2 ** 20);
      for (let at = 0; at < bytes.length; at += 4096) {
        bytes[at] = (at >>> 12) % 251;
      }

      await backend.put('big/a', bytes);

      const back = await backend.get('big/a');
      expect(back !== undefined && Buffer.compare(back, bytes)).toBe(0);
      await backend.delete('big/a');
    }, 30_000);

    describeRefusals(() => fixture);
  });
}

/** What a backend does not do: foreign keys, cancelled calls, half-made objects, absent places. */
function describeRefusals(fixtureOf: () => BackendFixture): void {
  it.each(['', '/a', 'a/', 'a//b', '../a', 'a/../b', '.hidden', 'a/.b', 'A', 'a b', 'a\0b'])(
    'refuses the key %j',
    async (key) => {
      const { backend } = fixtureOf();
      await expect(backend.put(key, text('x'))).rejects.toMatchObject({ type: 'InvalidInput' });
      await expect(backend.get(key)).rejects.toMatchObject({ type: 'InvalidInput' });
    },
  );

  it('ends with the reason of the signal when it is cancelled', async () => {
    const { backend } = fixtureOf();
    const reason = new Error('cancelled by the test');
    const before = AbortSignal.abort(reason);
    await expect(backend.get('put/a', { signal: before })).rejects.toBe(reason);
    await expect(backend.put('cancel/a', text('x'), { signal: before })).rejects.toBe(reason);
    await expect(keysOf(backend.list('pages/', { signal: before }))).rejects.toBe(reason);

    const during = new AbortController();
    const put = backend.put('cancel/b', new Uint8Array(64 * 2 ** 20), { signal: during.signal });
    during.abort(reason);
    const outcome = await put.then(
      () => 'written',
      (error: unknown) => error,
    );

    expect(['written', reason]).toContain(outcome);
    const size = (await backend.head('cancel/b'))?.bytes;
    expect([undefined, 64 * 2 ** 20]).toContain(size);
  });

  it('sweeps what a dead writer left, and no object', async () => {
    const { backend, leaveHalfMade } = fixtureOf();
    await backend.put('sweep/a', text('x'));
    await leaveHalfMade();

    expect(await backend.sweep(3_600_000)).toBe(0);
    expect(await backend.sweep(-60_000)).toBe(1);
    expect(await backend.sweep(-60_000)).toBe(0);
    expect(await backend.get('sweep/a')).toEqual(text('x'));
  });

  it('never says absent of a place that is not there', async () => {
    const { missingPlace, missingPlaceError } = fixtureOf();
    const failure = { type: missingPlaceError };

    await expect(missingPlace.get('a')).rejects.toMatchObject(failure);
    await expect(missingPlace.head('a')).rejects.toMatchObject(failure);
    await expect(missingPlace.delete('a')).rejects.toMatchObject(failure);
    await expect(keysOf(missingPlace.list('a/'))).rejects.toMatchObject(failure);
  });
}

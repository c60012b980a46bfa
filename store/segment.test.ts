import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { watch } from '../test/harness/backends.ts';
import { makeCheckpoint, noise, PAGE, sampleFiles, testOp } from '../test/harness/checkpoint-dir.ts';
import { openLocalBackend } from './backend/local.ts';
import type { Backend } from './backend/backend.ts';
import { fileOf, openDirectoryCopy, readMemory, type CheckpointCopy } from './copy.ts';
import { exportCheckpoint } from './export.ts';
import { importCheckpoint } from './import.ts';
import { publishManifest } from './publish.ts';
import { openStoredCopy } from './segment.ts';
import { uploadCheckpoint } from './upload.ts';

const BIG = noise(6 * 2 ** 20, 'big');
let root = '';
let dir = '';
let backend: Backend;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-segment-'));
  dir = join(root, 'source');
  backend = await openLocalBackend(join(root, 'store'));
  const manifest = await makeCheckpoint(dir, 'ck-1', { ...sampleFiles(), 'fs/big': BIG });
  const request = { checkpointId: 'ck-1', dir, backend, op: testOp(), ledgerPath: join(root, 'ledger') };
  await uploadCheckpoint({ ...request, manifest, packBytes: 2 ** 20 });
  await publishManifest(request);
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function bytesOf(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const piece of pieces) {
    parts.push(Buffer.from(piece));
  }
  return Buffer.concat(parts);
}

it('a directory without the checkpoint is left as it is', async () => {
  const empty = await openLocalBackend(join(root, 'empty'));
  const before = await readdir(join(root, 'empty'), { recursive: true });

  await expect(openStoredCopy(empty, 'ck-1', testOp())).rejects.toMatchObject({ type: 'CheckpointNotFound' });

  expect(await readdir(join(root, 'empty'), { recursive: true })).toEqual(before);
});

const places: Array<[place: string, open: () => Promise<CheckpointCopy>]> = [
  ['a directory', () => openDirectoryCopy(dir, testOp())],
  ['a store', () => openStoredCopy(backend, 'ck-1', testOp())],
  ['a store, to be read whole', () => openStoredCopy(backend, 'ck-1', testOp(), { whole: true })],
];

describe.each(places)('a copy in %s', (_, open) => {
  it('gives whole files and ranges of them', async () => {
    const copy = await open();
    for (const [path, content] of Object.entries({ ...sampleFiles(), 'fs/big': BIG })) {
      const file = fileOf(copy, path);
      expect((await bytesOf(copy.read(file))).equals(content), path).toBe(true);
      const ranges = [
        { offset: 0, bytes: Math.min(10, content.length) },
        { offset: Math.floor(content.length / 3), bytes: Math.floor(content.length / 2) },
        { offset: Math.max(0, content.length - 5), bytes: Math.min(5, content.length) },
      ];
      for (const range of ranges) {
        const wanted = content.subarray(range.offset, range.offset + range.bytes);
        expect((await bytesOf(copy.read(file, range))).equals(wanted), `${path} ${range.offset}`).toBe(true);
      }
    }
    await copy.close();
  });

  it("gives a process's memory by its addresses, over the border of a mapping's pages", async () => {
    const copy = await open();
    const pages = sampleFiles()['criu/pages-1.img'] ?? Buffer.alloc(0);

    const heap = await bytesOf(readMemory(copy, { pid: 1, address: 0x5500_0003_0123n, bytes: 3 * PAGE }));
    const library = await bytesOf(readMemory(copy, { pid: 1, address: 0x7f00_0000_1000n, bytes: 16 }));

    expect(heap.equals(pages.subarray(0x123, 0x123 + 3 * PAGE))).toBe(true);
    expect(library.equals(pages.subarray(225 * PAGE, 225 * PAGE + 16))).toBe(true);
    await copy.close();
  });

  it.each([
    ['a process that is not there', { pid: 7, address: 0n, bytes: 1 }],
    ['an address that is not there', { pid: 1, address: 0x1000n, bytes: 1 }],
    ['a range that ends behind the pages', { pid: 1, address: 0x7f00_0000_0000n, bytes: 33 * PAGE }],
  ])('refuses %s', async (_what, request) => {
    const copy = await open();

    await expect(bytesOf(readMemory(copy, request))).rejects.toMatchObject({ type: 'InvalidInput' });
    await copy.close();
  });
});

describe('openStoredCopy', () => {
  it('reads a small file out of a big checkpoint without the rest', async () => {
    const watched = watch(backend);
    const copy = await openStoredCopy(watched, 'ck-1', testOp());

    await bytesOf(copy.read(fileOf(copy, 'config.json')));

    const fromPacks = watched.calls.filter(({ key }) => key.startsWith('packs/'));
    expect(fromPacks).toHaveLength(1);
    expect(copy.readBytes()).toBeLessThan(200);
    await copy.close();
  });

  it('keeps what it has read', async () => {
    const copy = await openStoredCopy(backend, 'ck-1', testOp());
    const file = fileOf(copy, 'criu/core-1.img');
    await bytesOf(copy.read(file));
    const once = copy.readBytes();

    await bytesOf(copy.read(file, { offset: 100, bytes: 10 }));

    expect(copy.readBytes()).toBe(once);
    await copy.close();
  });

  it('gives its lease back', async () => {
    const copy = await openStoredCopy(backend, 'ck-1', testOp());
    const held = await readdir(join(root, 'store/leases'));
    await copy.close();

    expect([held.length, (await readdir(join(root, 'store/leases'))).length]).toEqual([1, 0]);
    await expect(openStoredCopy(backend, 'ck-2', testOp())).rejects.toMatchObject({ type: 'CheckpointNotFound' });
    expect(await readdir(join(root, 'store/leases'))).toEqual([]);
  });

  it('exports the archive that the node exports', async () => {
    const stored = await openStoredCopy(backend, 'ck-1', testOp(), { whole: true });
    const fromStore = await bytesOf(exportCheckpoint(stored, testOp()));
    await stored.close();
    const local = await openDirectoryCopy(dir, testOp());
    const fromNode = await bytesOf(exportCheckpoint(local, testOp()));

    expect(fromStore.equals(fromNode)).toBe(true);
    const stream = (async function* (): AsyncGenerator<Uint8Array> {
      yield await Promise.resolve(fromStore);
    })();
    const { path } = await importCheckpoint({ stream, checkpointsDir: join(root, 'checkpoints'), op: testOp() });
    expect((await readFile(join(path, 'fs/big'))).equals(BIG)).toBe(true);
  });
});

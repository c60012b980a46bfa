import { mkdtemp, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CHUNK_BYTES, type Manifest } from '../core/checkpoint/manifest.ts';
import { noise, PAGE, pagemapImage, sampleFiles, testOp, writeFiles } from '../test/harness/checkpoint-dir.ts';
import { chunksOf } from './chunk-list.ts';
import { describeCheckpoint } from './describe.ts';
import { toHex } from './digest.ts';

let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-describe-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

function digestsOf(manifest: Manifest, path: string): string[] {
  const file = manifest.files.find((entry) => entry.path === path);
  return file === undefined
    ? []
    : [...chunksOf(file)].map(({ digest }) => (digest === undefined ? 'zero' : toHex(digest)));
}

describe('describeCheckpoint', () => {
  it('lists every file in order with its size, and leaves out what is not content', async () => {
    await writeFiles(dir, sampleFiles());
    const content = await describeCheckpoint(dir, testOp());
    await writeFiles(dir, {
      'metadata.json': '{}',
      'metadata.json.0a.tmp': '{}',
      'manifest.json': '{}',
      'upload.pending': '',
      'upload.ledger': '',
    });

    const manifest = await describeCheckpoint(dir, testOp());

    expect(manifest).toEqual(content);
    const expected = Object.entries(sampleFiles()).map(([path, bytes]): [string, number] => [path, bytes.length]);
    expect(manifest.files.map((file) => [file.path, file.bytes])).toEqual(
      expected.sort(([left], [right]) => (left < right ? -1 : 1)),
    );
    expect(manifest.totalBytes).toBe(Object.values(sampleFiles()).reduce((sum, bytes) => sum + bytes.length, 0));
  });

  it('chunks page images by address: one new page changes one chunk', async () => {
    const pages = noise(512 * PAGE, 'pages');
    await writeFiles(dir, {
      'criu/pagemap-7.img': pagemapImage(3, [
        { vaddr: 0x10_0000, pages: 200 },
        { vaddr: 0x4000_0000, pages: 312 },
      ]),
      'criu/pages-3.img': pages,
    });
    const before = digestsOf(await describeCheckpoint(dir, testOp()), 'criu/pages-3.img');

    await writeFiles(dir, {
      'criu/pagemap-7.img': pagemapImage(3, [
        { vaddr: 0x10_0000 - PAGE, pages: 1 },
        { vaddr: 0x10_0000, pages: 200 },
        { vaddr: 0x4000_0000, pages: 312 },
      ]),
      'criu/pages-3.img': Buffer.concat([noise(PAGE, 'new page'), pages]),
    });
    const after = digestsOf(await describeCheckpoint(dir, testOp()), 'criu/pages-3.img');

    expect(after.filter((digest) => !before.includes(digest))).toHaveLength(1);
    expect(before.filter((digest) => !after.includes(digest))).toEqual([]);
  });

  it('ignores pagemap entries whose pages are elsewhere', async () => {
    await writeFiles(dir, {
      'criu/pagemap-1.img': pagemapImage(1, [
        { vaddr: 0, pages: 5, flags: 2 },
        { vaddr: 0x100_0000, pages: 2 },
        { vaddr: 0x200_0000, pages: 9, flags: 1 },
      ]),
      'criu/pages-1.img': noise(2 * PAGE, 'two'),
    });

    const manifest = await describeCheckpoint(dir, testOp());

    expect(manifest.files.find((file) => file.path === 'criu/pages-1.img')?.segments).toMatchObject([
      { kind: 'memory', pageBytes: PAGE, runs: [0x1000, 2] },
    ]);
  });

  it.each([
    ['is damaged', { 'criu/pagemap-1.img': 'not a pagemap' }],
    ['has another number of pages', { 'criu/pagemap-1.img': pagemapImage(1, [{ vaddr: 0, pages: 3 }]) }],
    [
      'shares its pages with another',
      {
        'criu/pagemap-1.img': pagemapImage(1, [{ vaddr: 0, pages: 40 }]),
        'criu/pagemap-2.img': pagemapImage(1, [{ vaddr: 0, pages: 40 }]),
      },
    ],
  ])('chunks a page image by offset when its pagemap %s', async (_, files) => {
    await writeFiles(dir, { ...files, 'criu/pages-1.img': noise(40 * PAGE, 'pages') });

    const manifest = await describeCheckpoint(dir, testOp());

    expect(manifest.files.find((file) => file.path === 'criu/pages-1.img')?.segments).toMatchObject([
      { kind: 'file', bytes: 40 * PAGE },
    ]);
  });

  it('elides zero chunks as runs', async () => {
    await writeFiles(dir, { 'fs/a': noise(CHUNK_BYTES, 'a'), 'fs/hole': '' });
    await truncate(join(dir, 'fs/a'), 5 * CHUNK_BYTES);
    await truncate(join(dir, 'fs/hole'), 3 * CHUNK_BYTES + 1);

    const manifest = await describeCheckpoint(dir, testOp());

    expect(manifest.files.map((file) => file.segments[0]?.zero)).toEqual([
      [1, 4],
      [0, 4],
    ]);
    expect(digestsOf(manifest, 'fs/hole')).toEqual(['zero', 'zero', 'zero', 'zero']);
  });

  it('gives another root when any byte, size or name changes, and the same one when nothing does', async () => {
    await writeFiles(dir, sampleFiles());
    const { merkleRoot } = await describeCheckpoint(dir, testOp());
    const roots = new Set([merkleRoot]);
    expect((await describeCheckpoint(dir, testOp())).merkleRoot).toBe(merkleRoot);

    const image = join(dir, 'criu/core-1.img');
    const bytes = await readFile(image);
    bytes[350] = (bytes[350] ?? 0) ^ 1;
    await writeFile(image, bytes);
    roots.add((await describeCheckpoint(dir, testOp())).merkleRoot);
    await truncate(join(dir, 'criu/empty.img'), 1);
    roots.add((await describeCheckpoint(dir, testOp())).merkleRoot);
    await writeFile(join(dir, 'criu/added.img'), '');
    roots.add((await describeCheckpoint(dir, testOp())).merkleRoot);
    await rm(join(dir, 'criu/added.img'));
    await writeFile(join(dir, 'criu/renamed.img'), '');
    roots.add((await describeCheckpoint(dir, testOp())).merkleRoot);

    expect(roots.size).toBe(5);
  });

  it('has the root that format version 1 gives this content', async () => {
    await writeFiles(dir, sampleFiles());

    const { merkleRoot } = await describeCheckpoint(dir, testOp());

    expect(merkleRoot).toMatchInlineSnapshot(`"1f49761f5ed67a97f4b4323c69baf6513c4c2b322791bcbada2966f4e040ba5e"`);
  });

  it('refuses a symbolic link', async () => {
    await symlink('/etc/hostname', join(dir, 'config.json'));

    await expect(describeCheckpoint(dir, testOp())).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it('refuses a socket', async () => {
    const server = createServer().listen(join(dir, 'socket'));
    await new Promise((resolve) => server.once('listening', resolve));

    await expect(describeCheckpoint(dir, testOp())).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    await new Promise((resolve) => server.close(resolve));
  });

  it('refuses a name that a manifest may not carry', async () => {
    await writeFiles(dir, { 'criu/a\nb': '' });

    await expect(describeCheckpoint(dir, testOp())).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it('tells its progress up to the total', async () => {
    await writeFiles(dir, sampleFiles());
    const op = testOp();

    const { totalBytes } = await describeCheckpoint(dir, op);

    expect(op.seen.at(-1)).toEqual({ phase: 'committing', bytesDone: totalBytes, bytesTotal: totalBytes });
  });

  it('ends with the reason of the signal', async () => {
    await writeFiles(dir, { big: noise(9 * 2 ** 20, 'big') });
    const stop = new AbortController();
    const reason = new Error('stopped');
    const op = { ...testOp(stop.signal), progress: () => stop.abort(reason) };

    await expect(describeCheckpoint(dir, op)).rejects.toBe(reason);
    await expect(describeCheckpoint(dir, testOp(AbortSignal.abort(reason)))).rejects.toBe(reason);
  });
});

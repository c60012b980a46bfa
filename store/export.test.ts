/* Archives of checkpoints: what is written, what GNU tar makes of it, and what an import refuses. */
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../test/harness/checkpoint-dir.ts';
import { describeCheckpoint } from './describe.ts';
import { openDirectoryCopy } from './copy.ts';
import { exportCheckpoint } from './export.ts';
import { importCheckpoint, type ImportRequest } from './import.ts';
import { TAR_END, tarHeader } from './tar.ts';

let root = '';
let source = '';
let checkpoints = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-export-'));
  source = join(root, 'source');
  checkpoints = join(root, 'checkpoints');
  await makeCheckpoint(source, 'ck-1');
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function exported(dir = source): Promise<Buffer> {
  const op = testOp();
  const pieces: Buffer[] = [];
  for await (const piece of exportCheckpoint(await openDirectoryCopy(dir, op), op)) {
    pieces.push(Buffer.from(piece));
  }
  return Buffer.concat(pieces);
}

/** In pieces that fit nothing. */
async function* streamOf(bytes: Uint8Array, pieceBytes = 7001): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    yield await Promise.resolve(bytes.subarray(at, at + pieceBytes));
  }
}

function load(bytes: Uint8Array, more: Partial<ImportRequest> = {}): ReturnType<typeof importCheckpoint> {
  return importCheckpoint({ stream: streamOf(bytes), checkpointsDir: checkpoints, op: testOp(), ...more });
}

async function namesIn(dir: string): Promise<string[]> {
  return (await readdir(dir).catch((): string[] => [])).sort();
}

/** An archive of other files than the manifest's. */
function archive(files: ReadonlyArray<readonly [name: string, content: Uint8Array]>): Buffer {
  const parts = files.flatMap(([name, content]) => [
    tarHeader({ name, bytes: content.length, mtimeS: 0 }),
    content,
    new Uint8Array((512 - (content.length % 512)) % 512),
  ]);
  return Buffer.concat([...parts, TAR_END]);
}

const TAR_HEADER_BYTES = 512;

describe('exportCheckpoint', () => {
  it('makes an archive that GNU tar unpacks to the same directory', async () => {
    const path = join(root, 'x.tar');
    await writeFile(path, await exported());

    execFileSync('tar', ['--extract', `--file=${path}`, `--directory=${root}`]);

    const unpacked = join(root, 'checkpoint-ck-1');
    for (const name of [...Object.keys(sampleFiles()), 'metadata.json', 'manifest.json']) {
      expect(Buffer.compare(await readFile(join(unpacked, name)), await readFile(join(source, name))), name).toBe(0);
      expect((await stat(join(unpacked, name))).mode & 0o777, name).toBe(0o600);
    }
  });

  it('puts manifest and metadata first, then the files in the order of the manifest', async () => {
    const path = join(root, 'x.tar');
    await writeFile(path, await exported());

    const names = execFileSync('tar', ['--list', `--file=${path}`])
      .toString()
      .trim()
      .split('\n');

    const content = Object.keys(sampleFiles()).sort();
    expect(names).toEqual(['manifest.json', 'metadata.json', ...content].map((name) => `checkpoint-ck-1/${name}`));
  });

  it('takes long names and names that are not ASCII', async () => {
    const dir = join(root, 'names');
    const names = [`fs/${'long/'.repeat(150)}name`, 'fs/grüße', `fs/${'x'.repeat(100)}`];
    await makeCheckpoint(dir, 'ck-names', Object.fromEntries(names.map((name) => [name, noise(600, name)])));
    const path = join(root, 'x.tar');
    await writeFile(path, await exported(dir));

    execFileSync('tar', ['--extract', `--file=${path}`, `--directory=${root}`]);
    const { path: imported } = await load(await readFile(path));

    for (const name of names) {
      expect((await readFile(join(root, 'checkpoint-ck-names', name))).equals(noise(600, name)), name).toBe(true);
      expect((await readFile(join(imported, name))).equals(noise(600, name)), name).toBe(true);
    }
  });

  it('ends at a chunk that is damaged', async () => {
    await writeFile(join(source, 'criu/core-1.img'), noise(700, 'other'));

    await expect(exported()).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      details: { file: 'criu/core-1.img', chunk: 0 },
    });
  });

  it('says CheckpointNotFound of a directory that is none', async () => {
    await expect(exported(join(root, 'nothing'))).rejects.toMatchObject({ type: 'CheckpointNotFound' });
  });
});

describe('importCheckpoint', () => {
  it('does not use up what must stay free of the disk', async () => {
    const { bavail, bsize } = await statfs(tmpdir());

    await expect(load(await exported(), { minFreeBytes: bavail * bsize + 2 ** 34 })).rejects.toMatchObject({
      type: 'DiskFull',
      message: expect.stringContaining('KYBERNATE_MIN_FREE_BYTES') as string,
    });
    expect(await readdir(checkpoints)).toEqual([]);
  });

  it('makes the same checkpoint again, for its owner alone', async () => {
    const imported = await load(await exported());

    expect(imported).toMatchObject({ checkpointId: 'ck-1', created: true, path: join(checkpoints, 'checkpoint-ck-1') });
    const [before, after] = await Promise.all([
      describeCheckpoint(source, testOp()),
      describeCheckpoint(imported.path, testOp()),
    ]);
    expect(after).toEqual(before);
    expect(
      (await readFile(join(imported.path, 'metadata.json'))).equals(await readFile(join(source, 'metadata.json'))),
    ).toBe(true);
    expect((await stat(join(imported.path, 'criu/core-1.img'))).mode & 0o777).toBe(0o600);
    expect(await namesIn(checkpoints)).toEqual(['checkpoint-ck-1']);
  });

  it('finds out by itself that the archive is compressed', async () => {
    const imported = await load(zstdCompressSync(await exported()));

    expect(imported.created).toBe(true);
  });

  it('takes an archive that GNU tar has padded, and leaves holes for zeros', async () => {
    const imported = await load(Buffer.concat([await exported(), Buffer.alloc(9216)]));

    const { size, blocks } = await stat(join(imported.path, 'criu/pages-1.img'));
    expect(blocks * 512).toBeLessThan(size - 64 * 4096 + 131_072);
  });

  it('reads nothing behind the head when the checkpoint is there already', async () => {
    const bytes = await exported();
    await load(bytes);

    const again = await load(bytes.subarray(0, 20_000));

    expect(again.created).toBe(false);
  });

  it('refuses the id of another checkpoint, and leaves that', async () => {
    const bytes = await exported();
    const other = await makeCheckpoint(join(checkpoints, 'checkpoint-ck-1'), 'ck-1', sampleFiles('other'));

    await expect(load(bytes)).rejects.toMatchObject({ type: 'InvalidInput' });
    expect((await describeCheckpoint(join(checkpoints, 'checkpoint-ck-1'), testOp())).merkleRoot).toBe(
      other.merkleRoot,
    );
  });

  it('asks before it makes a file', async () => {
    const no = new Error('not this one');
    const accept = (): never => {
      throw no;
    };

    await expect(load(await exported(), { accept })).rejects.toBe(no);
    expect(await namesIn(checkpoints)).toEqual([]);
  });

  it('removes what it wrote when it is cancelled, and what a killed import left', async () => {
    await mkdir(join(checkpoints, '.import-999999999-ck-9'), { recursive: true });
    const stop = new AbortController();
    const reason = new Error('stopped');
    const op = { ...testOp(stop.signal), progress: () => stop.abort(reason) };

    await expect(load(await exported(), { op })).rejects.toBe(reason);
    expect(await namesIn(checkpoints)).toEqual([]);
  });

  it('refuses an archive that is cut off, wherever', async () => {
    const bytes = await exported();
    const packed = zstdCompressSync(bytes);
    for (let length = 0; length < bytes.length - 1024; length += 49_999) {
      await expect(load(bytes.subarray(0, length)), `${length}`).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    }
    await expect(load(packed.subarray(0, packed.length - 100))).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    expect(await namesIn(checkpoints)).toEqual([]);
  });

  it('refuses every change of order, name, type, size and content', async () => {
    const manifest = await readFile(join(source, 'manifest.json'));
    const metadata = await readFile(join(source, 'metadata.json'));
    const entries = async (): Promise<Array<[string, Uint8Array]>> => [
      ['checkpoint-ck-1/manifest.json', manifest],
      ['checkpoint-ck-1/metadata.json', metadata],
      ...(await Promise.all(
        Object.keys(sampleFiles())
          .sort()
          .map(async (name): Promise<[string, Uint8Array]> => [
            `checkpoint-ck-1/${name}`,
            await readFile(join(source, name)),
          ]),
      )),
    ];
    const whole = await entries();
    const changed: Array<[what: string, bytes: Buffer]> = [
      ['no metadata', archive(whole.filter(([name]) => !name.endsWith('metadata.json')))],
      ['metadata last', archive([...whole.slice(0, 1), ...whole.slice(2), ...whole.slice(1, 2)])],
      ['a missing file', archive(whole.slice(0, -1))],
      [
        'two files swapped',
        archive([...whole.slice(0, 2), ...whole.slice(3, 4), ...whole.slice(2, 3), ...whole.slice(4)]),
      ],
      ['a file twice', archive([...whole, ...whole.slice(-1)])],
      ['a file too many', archive([...whole, ['checkpoint-ck-1/zz', Buffer.from('z')]])],
      ['a file outside', archive([...whole, ['../escaped', Buffer.from('z')]])],
      ['an absolute name', archive([...whole, ['/tmp/kybernate-escaped', Buffer.from('z')]])],
      ['another id in the names', archive(whole.map(([name, bytes]) => [name.replace('ck-1', 'ck-2'), bytes]))],
      ['an id that is none', archive(whole.map(([name, bytes]) => [name.replace('ck-1', '..'), bytes]))],
      [
        'a longer file',
        archive(whole.map(([name, bytes], at) => [name, at === 3 ? Buffer.concat([bytes, bytes]) : bytes])),
      ],
      [
        'another content',
        archive(whole.map(([name, bytes], at) => [name, at === 3 ? noise(bytes.length, 'x') : bytes])),
      ],
      ['bytes behind its end', Buffer.concat([archive(whole), Buffer.from('x')])],
      ['nothing', Buffer.alloc(0)],
      ['zeros', Buffer.alloc(10_240)],
      ['text', Buffer.from('#!/bin/sh\necho no archive\n'.repeat(100))],
    ];
    for (const [what, bytes] of changed) {
      await expect(load(bytes), what).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
      expect(await namesIn(checkpoints), what).toEqual([]);
    }
    expect((await load(archive(whole))).created).toBe(true);
    expect(await namesIn(root)).toEqual(['checkpoints', 'source']);
    await expect(stat('/tmp/kybernate-escaped')).rejects.toThrow('ENOENT');
  });

  it.each(['1', '2', '3', '4', '5', '6', 'g', 'L', 'K', 'S'])('refuses an entry of type %s', async (type) => {
    const bytes = await exported();
    const at = bytes.indexOf('checkpoint-ck-1/config.json');
    bytes.write(type, at + 156);
    fixChecksum(bytes, at);

    await expect(load(bytes)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it.each([
    ['a length below zero', '-9 size=1\n'],
    ['no length', ' size=1\n'],
    ['a length that is too long', '99 size=1\n'],
    ['a size that is none', '12 size=1e9\n'],
    ['a foreign key', '14 linkpath=x\n'],
    ['a record without its end', '10 size=1x'],
  ])('refuses a pax header with %s', async (_, records) => {
    const bytes = await exported();
    const pax = tarHeader({ name: 'pax-header', bytes: records.length, mtimeS: 0 });
    const block = Buffer.concat([pax, Buffer.from(records), Buffer.alloc(512 - records.length)]);
    block.write('x', 156);
    fixChecksum(block, 0);

    await expect(load(Buffer.concat([block, bytes]))).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it('does not believe sizes: a manifest of terabytes, a file that decompresses without end', async () => {
    const huge = Buffer.from(tarHeader({ name: 'checkpoint-ck-1/manifest.json', bytes: 2 ** 40, mtimeS: 0 }));
    await expect(load(huge)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });

    const bomb = zstdCompressSync(
      Buffer.concat([(await exported()).subarray(0, -1024), Buffer.alloc(64 * 2 ** 20, 'a')]),
    );
    await expect(load(bomb)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    expect(await namesIn(checkpoints)).toEqual([]);
  });
});

function fixChecksum(bytes: Buffer, at: number): void {
  const header = bytes.subarray(at, at + TAR_HEADER_BYTES);
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\u0000 `, 148, 'latin1');
}

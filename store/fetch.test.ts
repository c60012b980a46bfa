import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  CHUNK_BYTES,
  encodePublishedManifest,
  type Manifest,
  type PublishedManifest,
} from '../core/checkpoint/manifest.ts';
import { watch } from '../test/harness/backends.ts';
import { commitDir, makeCheckpoint, noise, sampleFiles, testOp, writeFiles } from '../test/harness/checkpoint-dir.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import { getManifest } from './catalog.ts';
import { describeCheckpoint } from './describe.ts';
import { hexDigestOf } from './digest.ts';
import { fetchCheckpoint } from './fetch.ts';
import { fileListKey, manifestKey } from './keys.ts';
import { merkleRoot } from './merkle.ts';
import { readPackIndex } from './pack-index.ts';
import { publishManifest } from './publish.ts';
import { seal } from './seal.ts';
import { uploadCheckpoint } from './upload.ts';
import { verifyLocal, verifyRemote } from './verify.ts';

const never = new AbortController().signal;
let root = '';
let source = '';
let dest = '';
let backend: Backend;
let manifest: Manifest;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-fetch-'));
  source = join(root, 'source');
  dest = join(root, 'checkpoint-ck-1');
  backend = await openLocalBackend(join(root, 'store'));
  manifest = await makeCheckpoint(source, 'ck-1');
  await uploadCheckpoint({ checkpointId: 'ck-1', dir: source, manifest, backend, op: testOp(), packBytes: 300_000 });
  await publishManifest({ checkpointId: 'ck-1', dir: source, backend, op: testOp() });
});
afterEach(() => rm(root, { recursive: true, force: true }));

function fetch(op = testOp(), from: Backend = backend): ReturnType<typeof fetchCheckpoint> {
  return fetchCheckpoint({ checkpointId: 'ck-1', backend: from, destDir: dest, op });
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Changes an object in the store. */
async function damage(key: string, change: (bytes: Buffer) => Uint8Array): Promise<void> {
  await backend.put(key, change(Buffer.from((await backend.get(key)) ?? [])));
}

/** Flips one bit of the first chunk of a file, in its pack. */
async function flipChunkOf(path: string): Promise<string> {
  const { manifest: published } = await getManifest(backend, 'ck-1');
  const bytes = await readFile(join(source, path));
  const digest = hexDigestOf(bytes.subarray(0, CHUNK_BYTES));
  for (const [pack] of published.packs) {
    const index = await readPackIndex(backend, pack, never);
    const entry = index?.entries.find((candidate) => Buffer.from(candidate.digest).toString('hex') === digest);
    if (entry !== undefined) {
      await damage(`packs/${pack}`, (content) => {
        content[entry.offset + 20] = (content[entry.offset + 20] ?? 0) ^ 1;
        return content;
      });
      return pack;
    }
  }
  throw new Error(`no pack has the first chunk of ${path}`);
}

/** Replaces what is published by a manifest that is right in itself. */
async function republish(files: Manifest['files']): Promise<void> {
  const { manifest: published } = await getManifest(backend, 'ck-1');
  const totalBytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const root = merkleRoot(files);
  const text = Buffer.from(JSON.stringify({ ...manifest, files, totalBytes, merkleRoot: root }));
  const metadata = published.metadata.text.replace(published.merkleRoot, root);
  const forged: PublishedManifest = {
    ...published,
    merkleRoot: root,
    totalBytes,
    files: { digest: hexDigestOf(text), bytes: text.length },
    metadata: { text: metadata, digest: hexDigestOf(Buffer.from(metadata)) },
  };
  await backend.put(fileListKey('ck-1', forged.files.digest), text);
  await backend.put(manifestKey('ck-1'), seal(encodePublishedManifest(forged)));
}

describe('fetchCheckpoint', () => {
  it('makes the same directory again, for its owner alone', async () => {
    const fetched = await fetch();

    expect(fetched).toMatchObject({ totalBytes: manifest.totalBytes, merkleRoot: manifest.merkleRoot });
    expect(fetched.bytes).toBeGreaterThan(192 * 4096);
    for (const name of [...Object.keys(sampleFiles()), 'metadata.json', 'manifest.json']) {
      expect(Buffer.compare(await readFile(join(dest, name)), await readFile(join(source, name))), name).toBe(0);
      expect((await stat(join(dest, name))).mode & 0o777, name).toBe(0o600);
    }
    expect((await stat(dest)).mode & 0o777).toBe(0o700);
    expect((await readdir(dest)).sort()).toEqual([
      'config.json',
      'criu',
      'fs',
      'logs',
      'manifest.json',
      'metadata.json',
    ]);
    expect((await describeCheckpoint(dest, testOp())).merkleRoot).toBe(manifest.merkleRoot);
    expect(await readdir(join(root, 'store/leases'))).toEqual([]);
  });

  it('writes holes for zeros', async () => {
    const dir = join(root, 'sparse');
    const content = await makeCheckpoint(dir, 'ck-sparse', {
      'fs/a': Buffer.alloc(8 * 2 ** 20),
      'fs/b': noise(9, 'b'),
    });
    await uploadCheckpoint({ checkpointId: 'ck-sparse', dir, manifest: content, backend, op: testOp() });
    await publishManifest({ checkpointId: 'ck-sparse', dir, backend, op: testOp() });

    await fetchCheckpoint({ checkpointId: 'ck-sparse', backend, destDir: dest, op: testOp() });

    const info = await stat(join(dest, 'fs/a'));
    expect([info.size, info.blocks]).toEqual([8 * 2 ** 20, 0]);
  });

  it('writes a chunk to all its places', async () => {
    const dir = join(root, 'same');
    const bytes = noise(400_000, 'same');
    const files = {
      'fs/a': Buffer.concat([bytes.subarray(0, CHUNK_BYTES), bytes.subarray(0, CHUNK_BYTES)]),
      'fs/b': bytes,
    };
    const content = await makeCheckpoint(dir, 'ck-same', files);
    const { newChunks } = await uploadCheckpoint({
      checkpointId: 'ck-same',
      dir,
      manifest: content,
      backend,
      op: testOp(),
    });
    await publishManifest({ checkpointId: 'ck-same', dir, backend, op: testOp() });

    await fetchCheckpoint({ checkpointId: 'ck-same', backend, destDir: dest, op: testOp() });

    expect(newChunks).toBe(Math.ceil(400_000 / CHUNK_BYTES));
    expect(Buffer.compare(await readFile(join(dest, 'fs/a')), files['fs/a'])).toBe(0);
    expect(Buffer.compare(await readFile(join(dest, 'fs/b')), files['fs/b'])).toBe(0);
  });

  it('reads nothing again when the checkpoint is there', async () => {
    await fetch();

    expect((await fetch()).bytes).toBe(0);
  });

  it('replaces what a crash left', async () => {
    await writeFiles(dest, { 'criu/left.img': 'half', 'metadata.json.0a.tmp': '{}' });

    await fetch();

    expect(await readdir(join(dest, 'criu'))).not.toContain('left.img');
    expect(await readdir(dest)).not.toContain('metadata.json.0a.tmp');
  });

  it('lets two calls for one directory succeed, reading once', async () => {
    const [first, second] = await Promise.all([fetch(), fetch()]);

    expect(Math.min(first.bytes, second.bytes)).toBe(0);
    expect(first.bytes + second.bytes).toBeGreaterThan(0);
    await verifyLocal(dest, manifest, testOp());
  });

  it('refuses a directory that is another checkpoint, and leaves it', async () => {
    await makeCheckpoint(dest, 'ck-1', sampleFiles('other'));

    await expect(fetch()).rejects.toMatchObject({ type: 'InvalidInput' });
    expect(await isThere(join(dest, 'metadata.json'))).toBe(true);
  });

  it('names file, chunk and pack of a flipped bit, and removes the directory', async () => {
    const pack = await flipChunkOf('criu/core-1.img');

    await expect(fetch()).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      details: { file: 'criu/core-1.img', chunk: 0, pack },
    });
    expect(await isThere(dest)).toBe(false);
    await expect(verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() })).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      details: { file: 'criu/core-1.img', chunk: 0, pack },
    });
  });

  it('reads a pack without its index copy', async () => {
    for await (const { key } of backend.list('index/')) {
      await backend.delete(key);
    }

    await fetch();

    await verifyLocal(dest, manifest, testOp());
  });

  it.each([
    [
      'a pack is gone',
      async (pack: string) => Promise.all([backend.delete(`packs/${pack}`), backend.delete(`index/${pack}`)]),
    ],
    ['a pack is gone but for its index', async (pack: string) => backend.delete(`packs/${pack}`)],
    ['a pack is cut off', async (pack: string) => damage(`packs/${pack}`, (bytes) => bytes.subarray(0, 1000))],
    ['an index is damaged', async (pack: string) => damage(`index/${pack}`, (bytes) => bytes.fill(1, 0, 8))],
    ['an index is of another pack', async (pack: string) => damage(`index/${pack}`, () => otherIndex)],
  ])('refuses when %s, and leaves no directory', async (_, spoil) => {
    const { manifest: published } = await getManifest(backend, 'ck-1');
    otherIndex = (await backend.get(`index/${published.packs[1]?.[0]}`)) ?? new Uint8Array();
    await spoil(published.packs[0]?.[0] ?? '');

    await expect(fetch()).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    expect(await isThere(dest)).toBe(false);
  });
  let otherIndex: Uint8Array = new Uint8Array();

  it('refuses a file list that is missing or changed', async () => {
    const { manifest: published } = await getManifest(backend, 'ck-1');
    const key = fileListKey('ck-1', published.files.digest);
    await damage(key, (bytes) => Buffer.from(bytes.toString().replace('criu/core-1.img', 'criu/core-2.img')));
    await expect(fetch()).rejects.toMatchObject({ type: 'CheckpointCorrupt' });

    await backend.delete(key);
    await expect(fetch()).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it.each([
    ['a manifest that is not JSON', (text: string) => text.slice(0, -10)],
    ['changed metadata', (text: string) => text.replace('6.1.0', '6.1.1')],
    ['the manifest of another id', (text: string) => text.replace('"checkpointId": "ck-1"', '"checkpointId": "ck-2"')],
    ['another root', (text: string) => text.replace(/"merkleRoot": "[0-9a-f]{4}/, '"merkleRoot": "0000')],
  ])('refuses %s', async (_, change) => {
    await damage(manifestKey('ck-1'), (bytes) => Buffer.from(change(bytes.toString())));

    await expect(fetch()).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    expect(await isThere(dest)).toBe(false);
  });

  it('never writes outside the directory, whatever a manifest names', async () => {
    const [file] = manifest.files.filter(({ path }) => path === 'config.json');
    expect(file).toBeDefined();
    for (const path of ['../escaped', '/tmp/kybernate-escaped', 'criu/../../escaped', 'metadata.json']) {
      await republish(file === undefined ? [] : [{ ...file, path }]);

      await expect(fetch()).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    }
    expect(await isThere(join(root, 'escaped'))).toBe(false);
    expect(await isThere('/tmp/kybernate-escaped')).toBe(false);
  });

  it('refuses chunk lists that do not fit the sizes', async () => {
    const [file] = manifest.files.filter(({ path }) => path === 'config.json');
    const [segment] = file?.segments ?? [];
    for (const change of [{ zero: [0, 1] }, { zero: [5, 1] }, { digests: '' }, { zero: [0, 2], digests: '' }]) {
      const files =
        file === undefined || segment === undefined ? [] : [{ ...file, segments: [{ ...segment, ...change }] }];

      await expect(republish(files)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    }
  });

  it('says CheckpointNotFound of an id that is not there, InvalidInput of one that is none', async () => {
    const op = testOp();

    await expect(fetchCheckpoint({ checkpointId: 'ck-2', backend, destDir: dest, op })).rejects.toMatchObject({
      type: 'CheckpointNotFound',
    });
    await expect(fetchCheckpoint({ checkpointId: '../x', backend, destDir: dest, op })).rejects.toMatchObject({
      type: 'InvalidInput',
    });
    expect(await isThere(dest)).toBe(false);
  });

  it('leaves no directory when it is cancelled', async () => {
    const stop = new AbortController();
    const reason = new Error('stopped');
    const stopping = watch(backend, async ({ key }, proceed) => {
      if (key.startsWith('packs/')) {
        stop.abort(reason);
      }
      return proceed();
    });

    await expect(fetch(testOp(stop.signal), stopping)).rejects.toBe(reason);
    expect(await isThere(dest)).toBe(false);
    expect(await readdir(join(root, 'store/leases'))).toEqual([]);
  });

  it('joins neighbouring chunks into one read', async () => {
    const watched = watch(backend);

    await fetch(testOp(), watched);

    const reads = watched.calls.filter(({ key }) => key.startsWith('packs/'));
    const { manifest: published } = await getManifest(backend, 'ck-1');
    expect(reads).toHaveLength(published.packs.length);
  });
});

describe('verifyRemote', () => {
  it('reads every chunk back', async () => {
    const op = testOp();

    const verified = await verifyRemote({ checkpointId: 'ck-1', backend, op });

    expect(verified).toMatchObject({ files: manifest.files.length, merkleRoot: manifest.merkleRoot });
    expect(op.seen.at(-1)).toMatchObject({ phase: 'verifying', bytesDone: op.seen.at(-1)?.bytesTotal });
  });
});

describe('verifyLocal', () => {
  it('accepts a checkpoint as it was committed, with new logs beside it', async () => {
    await writeFiles(source, { 'logs/restore.log': 'later' });

    expect(await verifyLocal(source, manifest, testOp())).toMatchObject({ bytes: manifest.totalBytes });
  });

  it.each([
    ['a flipped bit', 'criu/core-1.img', async (path: string) => writeFile(path, noise(700, 'flipped'))],
    ['a byte in a hole', 'criu/pages-1.img', async (path: string) => writeByte(path, 200 * 4096)],
    ['a missing file', 'criu/empty.img', async (path: string) => rm(path)],
    ['a longer file', 'fs/deleted.files', async (path: string) => writeFile(path, '[]\n')],
    ['a directory in place of a file', 'config.json', async (path: string) => rm(path).then(() => mkdir(path))],
    ['a file too many', 'criu/new.img', async (path: string) => writeFile(path, '')],
  ])('refuses %s', async (_, path, spoil) => {
    await spoil(join(source, path));

    await expect(verifyLocal(source, manifest, testOp())).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it('refuses a manifest whose root is not its own', async () => {
    const forged = { ...manifest, merkleRoot: 'c'.repeat(64) };

    await expect(verifyLocal(source, forged, testOp())).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it('refuses a manifest that fits the files but not the metadata', async () => {
    await writeFile(join(source, 'criu/core-1.img'), noise(700, 'tampered'));
    const tampered = await describeCheckpoint(source, testOp());

    await expect(verifyLocal(source, tampered, testOp())).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });

  it('accepts what a checkpoint without files is', async () => {
    const empty = join(root, 'empty');
    await mkdir(empty);

    expect(await verifyLocal(empty, await commitDir(empty, 'ck-2'), testOp())).toMatchObject({ files: 0, bytes: 0 });
  });
});

async function writeByte(path: string, offset: number): Promise<void> {
  const bytes = await readFile(path);
  bytes[offset] = 1;
  await writeFile(path, bytes);
}

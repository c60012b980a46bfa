import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openBackend } from './open.ts';
import { openExistingLocalBackend, openLocalBackend } from './local.ts';
import { describeBackend } from './suite.ts';

let root = '';
async function makeRoot(): Promise<void> {
  root = await mkdtemp(join(tmpdir(), 'kybernate-store-'));
}
async function removeRoot(): Promise<void> {
  await rm(root, { recursive: true, force: true });
}

describeBackend(
  'directory',
  async () => {
    await makeRoot();
    const missingPlace = await openLocalBackend(join(root, 'unmounted'));
    await rm(join(root, 'unmounted'), { recursive: true });
    return {
      backend: await openLocalBackend(join(root, 'store')),
      leaveHalfMade: () => writeFile(join(root, 'store/.tmp/half'), 'half'),
      missingPlace,
      missingPlaceError: 'StorageUnavailable',
    };
  },
  removeRoot,
);

describe('a directory as a store', () => {
  beforeEach(makeRoot);
  afterEach(removeRoot);

  it('is readable by its owner alone', async () => {
    const backend = await openLocalBackend(join(root, 'a/b'));
    await backend.put('packs/x', new Uint8Array(3));

    const modes = await Promise.all(
      ['a/b', 'a/b/packs', 'a/b/packs/x'].map(async (path) => (await stat(join(root, path))).mode & 0o777),
    );

    expect(modes).toEqual([0o700, 0o700, 0o600]);
  });

  it('opened for reading is made by nobody but a writer, and noticed when it goes', async () => {
    await mkdir(join(root, 'empty'));
    const backend = await openExistingLocalBackend(join(root, 'empty'));

    expect(await backend.get('a/x')).toBeUndefined();
    expect(await readdir(join(root, 'empty'))).toEqual([]);
    await backend.put('a/x', new Uint8Array(1));
    expect(await backend.get('a/x')).toEqual(new Uint8Array(1));
    await rm(join(root, 'empty'), { recursive: true });
    await expect(backend.get('a/x')).rejects.toMatchObject({ type: 'StorageUnavailable' });
    await expect(openExistingLocalBackend(join(root, 'empty'))).rejects.toMatchObject({
      type: 'StorageUnavailable',
      message: expect.stringContaining('there is no store at') as string,
    });
    expect(await readdir(root)).toEqual([]);
  });

  it('leaves no temporary file after put and a lost putIfAbsent', async () => {
    const backend = await openLocalBackend(root);
    await backend.putIfAbsent('a/x', new Uint8Array(1));
    await backend.putIfAbsent('a/x', new Uint8Array(2));
    await backend.put('a/x', new Uint8Array(3));

    expect(await readdir(join(root, '.tmp'))).toEqual([]);
  });

  it('says StorageDenied when a file is in the place of a directory', async () => {
    await writeFile(join(root, 'file'), '');

    await expect(openLocalBackend(join(root, 'file'))).rejects.toMatchObject({ type: 'StorageDenied' });
    const backend = await openLocalBackend(join(root, 'store'));
    await backend.put('a', new Uint8Array(1));
    await expect(backend.put('a/b', new Uint8Array(1))).rejects.toMatchObject({ type: 'StorageDenied' });
  });
});

describe('openBackend', () => {
  beforeEach(makeRoot);
  afterEach(removeRoot);

  it('opens a directory by its file URL', async () => {
    const backend = await openBackend(`file://${root}/store/`);

    expect(backend.url).toBe(`file://${root}/store`);
    await backend.close();
  });

  it('opens S3 by bucket and prefix without asking it', async () => {
    const backend = await openBackend('s3://bucket/some/prefix/', { endpoint: 'http://127.0.0.1:1' });

    expect(backend.url).toBe('s3://bucket/some/prefix');
    await backend.close();
  });

  it.each(['', 'bucket', '/srv/store', 'ftp://host/x', 's3:///prefix', 's3://key:secret@bucket', 'file://host/x'])(
    'refuses the URL %j',
    async (url) => {
      await expect(openBackend(url)).rejects.toMatchObject({ type: 'InvalidInput' });
    },
  );
});

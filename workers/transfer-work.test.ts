import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { TransferTask } from '../core/contract/transfer.ts';
import { TRANSFER_CALLS } from '../core/contract/transfer.ts';
import type { Backend } from '../store/backend/backend.ts';
import { openLocalBackend } from '../store/backend/local.ts';
import { localKey } from '../store/crypto/key-ring.ts';
import { withKeys } from '../store/crypto/vault.ts';
import { listStored } from '../store/registry.ts';
import { localCatalog } from '../store/local-catalog.ts';
import { verifyRemote } from '../store/verify.ts';
import { makeCheckpoint, noise, testOp } from '../test/harness/checkpoint-dir.ts';
import { fileTree } from '../test/harness/file-tree.ts';
import { transferWork, type TransferWorkDeps } from './transfer-work.ts';

let root: string;
let backend: Backend;
let deps: TransferWorkDeps;
let prefetched: unknown[];
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-work-'));
  backend = await openLocalBackend(join(root, 'store'));
  prefetched = [];
  for (const name of ['uploads', 'roots/out', 'checkpoints']) {
    await mkdir(join(root, name), { recursive: true });
  }
  await makeCheckpoint(join(root, 'checkpoints/checkpoint-ck-1'), 'ck-1');
  deps = {
    node: 'node-a',
    catalog: localCatalog(join(root, 'checkpoints')),
    backend: () => Promise.resolve(backend),
    store: () => Promise.resolve(backend),
    roots: [{ dir: '/roots', path: join(root, 'roots') }],
    ledgerDir: join(root, 'uploads'),
    stagingDir: join(root, 'staging'),
    prefetch: (_id, wish) => {
      prefetched.push(wish);
      return Promise.resolve();
    },
  };
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function filesBelow(dir: string): Promise<string[]> {
  return (await readdir(dir, { recursive: true })).sort();
}

function run(kind: TransferTask['kind'], call: object): ReturnType<ReturnType<typeof transferWork>> {
  const task = { kind, call: TRANSFER_CALLS[kind].parse(call) } as TransferTask;
  return transferWork(deps)('0123456789abcdef', task, testOp());
}

describe('upload', () => {
  it('publishes a checkpoint of the node and writes nothing into it', async () => {
    const before = fileTree(join(root, 'checkpoints'));

    const { hash, location } = await run('upload', { checkpointId: 'ck-1', compress: 'lz4' });

    expect(location).toBe(`${backend.url}/checkpoints/ck-1/manifest.json`);
    expect((await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() })).merkleRoot).toBe(hash);
    expect(fileTree(join(root, 'checkpoints'))).toEqual(before);
    expect(await readdir(join(root, 'uploads'))).toEqual([]);
    expect(prefetched).toEqual([]);
  });

  it('asks for the tier in which the checkpoint is to lie afterwards', async () => {
    await run('upload', { checkpointId: 'ck-1', tier: 'ram' });

    expect(prefetched).toEqual([{ checkpointId: 'ck-1', nodes: ['node-a'], tier: 'ram' }]);
  });

  it('stores artifact directories under the id, each by its name, and gives them back byte for byte', async () => {
    await mkdir(join(root, 'roots/one/deep'), { recursive: true });
    await mkdir(join(root, 'roots/two'));
    await writeFile(join(root, 'roots/one/deep/a'), noise(300_000, 'a'));
    await writeFile(join(root, 'roots/two/b'), 'b');

    await run('upload', { checkpointId: 'art-1', paths: ['/roots/one', '/roots/two'] });
    await run('download', { checkpointId: 'art-1', destDir: '/roots/out/art' });

    const { checkpoints } = await listStored(backend, testOp());
    expect(checkpoints.map(({ summary }) => summary.container.id)).toEqual(['artifacts']);
    for (const path of ['one/deep/a', 'two/b']) {
      const same = (await readFile(join(root, 'roots', path))).equals(
        await readFile(join(root, 'roots/out/art', path)),
      );
      expect(same, path).toBe(true);
    }
    expect(await readdir(join(root, 'staging'))).toEqual([]);
  });

  it.each([
    ['two directories of one name', ['/roots/x/one', '/roots/y/one'], 'InvalidInput'],
    ['a directory outside of the roots', ['/etc'], 'InvalidInput'],
    ['a link in the place of a directory', ['/roots/linked'], 'InvalidInput'],
    ['a link inside', ['/roots/with-link'], 'CheckpointCorrupt'],
  ])('refuses %s and sends nothing', async (_, paths, type) => {
    for (const dir of ['x/one', 'y/one', 'with-link']) {
      await mkdir(join(root, 'roots', dir), { recursive: true });
    }
    await symlink('/etc', join(root, 'roots/linked'));
    await symlink('/etc/passwd', join(root, 'roots/with-link/passwd'));

    await expect(run('upload', { checkpointId: 'art-1', paths })).rejects.toMatchObject({ type });

    expect((await filesBelow(join(root, 'store'))).filter((path) => path.startsWith('packs/'))).toEqual([]);
  });
});

describe('download', () => {
  beforeEach(() => run('upload', { checkpointId: 'ck-1' }));

  it('brings the files, once', async () => {
    const call = { checkpointId: 'ck-1', destDir: '/roots/out/ck' };
    await run('download', call);
    await run('download', call);

    const source = join(root, 'checkpoints/checkpoint-ck-1');
    const names = (await filesBelow(source)).filter((name) => name !== 'upload.pending');
    expect(await filesBelow(join(root, 'roots/out/ck'))).toEqual(names);
    expect(await readdir(join(root, 'roots/out'))).toEqual(['ck']);
  });

  it('brings the objects as they are, a store of its own, once', async () => {
    const call = { checkpointId: 'ck-1', destDir: '/roots/out', decompress: 'no', tier: 's3' };
    await run('download', call);
    await run('download', call);

    const copy = await openLocalBackend(join(root, 'roots/out'));
    const { files } = await verifyRemote({ checkpointId: 'ck-1', backend: copy, op: testOp() });
    expect(files).toBeGreaterThan(0);
  });

  it('brings an encrypted one with its keys, wrapped, and with those of no other', async () => {
    const key = localKey(randomBytes(32));
    const ring = { current: key, all: new Map([[key.id, key]]) };
    withKeys(backend, ring);
    await makeCheckpoint(join(root, 'checkpoints/checkpoint-ck-2'), 'ck-2', { 'other.img': noise(1000, 'other') });
    await run('upload', { checkpointId: 'ck-2' });
    await makeCheckpoint(join(root, 'checkpoints/checkpoint-ck-3'), 'ck-3');
    await run('upload', { checkpointId: 'ck-3' });

    await run('download', { checkpointId: 'ck-3', destDir: '/roots/out', decompress: 'no', tier: 's3' });

    const copy = withKeys(await openLocalBackend(join(root, 'roots/out')), ring);
    await verifyRemote({ checkpointId: 'ck-3', backend: copy, op: testOp() });
    // The pointer, and the keys of addresses, chunks and content; the store has two more, of the other checkpoint.
    expect(await readdir(join(root, 'roots/out/keys'))).toHaveLength(4);
    expect(await readdir(join(root, 'store/keys'))).toHaveLength(6);
  });

  it('touches nothing that is in a directory', async () => {
    await writeFile(join(root, 'roots/out/mine'), 'mine');

    const download = run('download', { checkpointId: 'ck-1', destDir: '/roots/out' });

    await expect(download).rejects.toMatchObject({ type: 'InvalidInput' });
    expect(await readdir(join(root, 'roots/out'))).toEqual(['mine']);
  });

  it('leaves nothing behind when it fails', async () => {
    for (const pack of await readdir(join(root, 'store/packs'))) {
      await writeFile(join(root, 'store/packs', pack), 'damaged');
    }

    const download = run('download', { checkpointId: 'ck-1', destDir: '/roots/out/ck' });

    await expect(download).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    expect(await readdir(join(root, 'roots/out'))).toEqual([]);
  });
});

it('prefetch means the node of the sidecar unless another one is named', async () => {
  await run('upload', { checkpointId: 'ck-1' });

  await run('prefetch', { checkpointId: 'ck-1' });
  await run('prefetch', { checkpointId: 'ck-1', targetTier: 'local', targetNode: 'node-b' });

  expect(prefetched).toEqual([
    { checkpointId: 'ck-1', nodes: ['node-a'], tier: 'nvme' },
    { checkpointId: 'ck-1', nodes: ['node-b'], tier: 'local' },
  ]);
  await expect(run('prefetch', { checkpointId: 'ck-2' })).rejects.toMatchObject({ type: 'CheckpointNotFound' });
});

/*
 * The store on a real S3 server: versitygw over a temporary directory, so that the test can also damage objects, stop
 * the server and start it again.
 */
import { CreateMultipartUploadCommand, S3Client, UploadPartCommand } from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { uploadCheckpoint } from '../../store/upload.ts';
import { verifyLocal, verifyRemote } from '../../store/verify.ts';
import { publishManifest } from '../../store/publish.ts';
import { removeCheckpoint } from '../../store/remove.ts';
import { fetchCheckpoint } from '../../store/fetch.ts';
import type { Manifest } from '../../core/checkpoint/manifest.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../harness/checkpoint-dir.ts';
import { watch } from '../harness/backends.ts';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openS3Backend } from '../../store/backend/s3.ts';
import { describeBackend } from '../../store/backend/suite.ts';
import { CREDENTIALS, freePort, Gateway } from '../harness/versitygw.ts';

let shared: Gateway | undefined;
describeBackend(
  's3 (versitygw)',
  async () => {
    const gateway = await Gateway.make();
    shared = gateway;
    return {
      backend: gateway.open('bucket', 'team/a'),
      leaveHalfMade: async () => {
        const client = new S3Client({
          endpoint: gateway.endpoint,
          region: 'us-east-1',
          forcePathStyle: true,
          credentials: CREDENTIALS,
        });
        const at = { Bucket: 'bucket', Key: 'team/a/half' };
        const { UploadId } = await client.send(new CreateMultipartUploadCommand(at));
        await client.send(new UploadPartCommand({ ...at, UploadId, PartNumber: 1, Body: 'half' }));
        client.destroy();
      },
      missingPlace: gateway.open('no-such-bucket'),
      missingPlaceError: 'StorageDenied',
    };
  },
  async () => shared?.remove(),
);

describe('a checkpoint in s3', () => {
  let gateway: Gateway;
  let dir: string;
  let manifest: Manifest;
  beforeEach(async () => {
    gateway = await Gateway.make();
    dir = `${gateway.dir}-node/checkpoint-ck-1`;
    manifest = await makeCheckpoint(dir, 'ck-1', { ...sampleFiles(), 'fs/big': noise(40_000_000, 'big') });
  });
  afterEach(async () => {
    await gateway.remove();
    await rm(`${gateway.dir}-node`, { recursive: true, force: true });
  });

  function upload(backend: Backend): ReturnType<typeof uploadCheckpoint> {
    return uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp(), packBytes: 4_000_000 });
  }

  it('comes back byte for byte', async () => {
    const backend = gateway.open();
    const { packs } = await upload(backend);
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });

    const verified = await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() });
    const destDir = `${gateway.dir}-node/fetched`;
    await fetchCheckpoint({ checkpointId: 'ck-1', backend, destDir, op: testOp() });

    expect(packs.length).toBeGreaterThan(9);
    expect(verified.merkleRoot).toBe(manifest.merkleRoot);
    await verifyLocal(destDir, manifest, testOp());
    expect((await removeCheckpoint(backend, 'ck-1', testOp())).keptPacks).toBe(0);
    expect(await readdir(join(gateway.dir, 'bucket'), { recursive: true })).not.toContain(`packs/${packs[0]?.[0]}`);
  });

  it('goes on after the server died in the upload, without sending a stored pack again', async () => {
    const backend = gateway.open();
    let packs = 0;
    const dying = watch(backend, async (call, proceed) => {
      if (call.key.startsWith('packs/') && (packs += 1) === 5) {
        await gateway.stop();
      }
      await proceed();
    });
    await expect(upload(dying)).rejects.toMatchObject({ type: 'StorageUnavailable' });
    await gateway.start();
    const before = await readdir(join(gateway.dir, 'bucket/packs'));

    const counted = watch(backend);
    const resumed = await upload(counted);
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });

    expect(before.length).toBeGreaterThan(0);
    const sent = counted.calls.filter(({ name, key }) => name === 'put' && key.startsWith('packs/'));
    const stored = await Promise.all(before.map(async (id) => (await backend.head(`packs/${id}`))?.bytes ?? 0));
    const total = [...sent.map(({ bytes }) => bytes), ...stored].reduce((sum, bytes) => sum + bytes, 0);
    expect(total).toBeLessThan(40_000_000 + 1_000_000 + 20 * 2000);
    expect(resumed.packs).toHaveLength(before.length + sent.length);
    await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() });
  });

  it('names the pack in which a bit flipped on the server', async () => {
    const backend = gateway.open();
    const { packs } = await upload(backend);
    await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
    // The list is in the order of ids. The last pack is short: what is written behind its end would damage no chunk.
    const [pack = ''] = packs.find(([, bytes]) => bytes > 2_000_000) ?? [];
    const object = join(gateway.dir, 'bucket/packs', pack);
    const bytes = await readFile(object);
    bytes[1_000_000] = (bytes[1_000_000] ?? 0) ^ 1;
    await writeFile(object, bytes);
    const destDir = `${gateway.dir}-node/fetched`;

    const failure = { type: 'CheckpointCorrupt', details: { pack } };
    await expect(verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() })).rejects.toMatchObject(failure);
    await expect(fetchCheckpoint({ checkpointId: 'ck-1', backend, destDir, op: testOp() })).rejects.toMatchObject(
      failure,
    );
    expect(await readdir(`${gateway.dir}-node`)).toEqual(['checkpoint-ck-1']);
  });
});

describe('s3 failures', () => {
  let gateway: Gateway;
  beforeAll(async () => {
    gateway = await Gateway.make();
  });
  afterAll(() => gateway.remove());

  it('says StorageDenied to a wrong key and a wrong secret, and never absent', async () => {
    for (const credentials of [
      { ...CREDENTIALS, accessKeyId: 'nobody' },
      { ...CREDENTIALS, secretAccessKey: 'wrong' },
    ]) {
      const backend = gateway.open('bucket', '', credentials);

      await expect(backend.get('a')).rejects.toMatchObject({ type: 'StorageDenied' });
      await expect(backend.head('a')).rejects.toMatchObject({ type: 'StorageDenied' });
      await expect(backend.putIfAbsent('a', new Uint8Array(1))).rejects.toMatchObject({ type: 'StorageDenied' });
    }
  });

  it('leaves no parts of a large object whose upload was cancelled', async () => {
    const backend = gateway.open();
    const stop = new AbortController();
    const reason = new Error('stopped');
    const put = backend.put('cancelled', new Uint8Array(128 * 2 ** 20), { signal: stop.signal });
    for (let parts = 0; parts === 0;) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      const names = await readdir(join(gateway.dir, 'bucket'), { recursive: true });
      parts = names.filter((name) => name.includes('multipart')).length;
    }
    stop.abort(reason);

    await expect(put).rejects.toBe(reason);
    expect(await backend.head('cancelled')).toBeUndefined();
    expect(await backend.sweep(-60_000)).toBe(0);
  });

  it('says StorageUnavailable within a second when nothing listens', async () => {
    const backend = openS3Backend('bucket', '', {
      endpoint: `http://127.0.0.1:${await freePort()}`,
      credentials: CREDENTIALS,
    });
    const begin = performance.now();

    await expect(backend.get('a')).rejects.toMatchObject({ type: 'StorageUnavailable' });
    expect(performance.now() - begin).toBeLessThan(1000);
  });

  describe('with a server that accepts and then says nothing', () => {
    beforeEach(() => gateway.signal('SIGSTOP'));
    afterEach(() => gateway.signal('SIGCONT'));

    it('says StorageUnavailable within 16 s', async () => {
      const backend = gateway.open();
      const begin = performance.now();

      const calls = [backend.get('a'), backend.put('a', new Uint8Array(2 ** 20)), backend.head('a')];
      const outcomes = await Promise.all(calls.map((call) => call.then(String, (error: unknown) => error)));

      expect(outcomes).toEqual(calls.map(() => expect.objectContaining({ type: 'StorageUnavailable' })));
      expect(performance.now() - begin).toBeLessThan(16_000);
    });
  });
});

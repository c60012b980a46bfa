/*
 * The store on a real S3 server: versitygw over a temporary directory, so that the test can also damage objects, stop
 * the server and start it again.
 */
import { CreateMultipartUploadCommand, S3Client, UploadPartCommand } from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
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

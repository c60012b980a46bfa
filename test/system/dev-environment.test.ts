import { CreateBucketCommand, GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';

import { findShims } from '../../cli/dev/containerd-traces.ts';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { BUSYBOX_IMAGE, PYTHON_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import { fromLane } from '../harness/provided.ts';

function client() {
  const { address, dir, namespace } = fromLane('containerd');
  const containerd = openContainerd(dir, process.env);
  return { address, namespace, run: (args: string[]) => containerd.ctrOk(['-n', namespace, ...args]) };
}

test('every image starts and has its program, a shell and a writable /tmp and /data', async () => {
  const { run } = client();
  const programs = { [BUSYBOX_IMAGE]: 'busybox', [REDIS_IMAGE]: 'redis-server', [PYTHON_IMAGE]: 'python3' };

  for (const [image, program] of Object.entries(programs)) {
    const script = `ls /usr/bin/${program} && touch /tmp/a /data/b && id -un`;
    const output = await run(['run', '--rm', image, 'image-probe', 'sh', '-c', script]);

    expect(output.trim().split('\n')).toEqual([`/usr/bin/${program}`, 'root']);
  }
});

test('a container that is paused is ended with its shim when its task is removed by force', async () => {
  const { address, run } = client();
  await run(['run', '--detach', BUSYBOX_IMAGE, 'paused', 'sleep', '1000']);
  await run(['tasks', 'pause', 'paused']);

  await run(['tasks', 'rm', '--force', 'paused']);
  await run(['containers', 'rm', 'paused']);

  await expect.poll(() => findShims(address).filter((shim) => shim.id === 'paused')).toEqual([]);
});

test('the S3 server serves its bucket to its own keys only', async () => {
  const { endpoint, region, bucket, accessKeyId, secretAccessKey } = fromLane('s3');
  const settings = { endpoint, region, forcePathStyle: true };
  const s3 = new S3Client({ ...settings, credentials: { accessKeyId, secretAccessKey } });
  const stranger = new S3Client({ ...settings, credentials: { accessKeyId, secretAccessKey: 'wrong' } });

  await s3.send(new PutObjectCommand({ Bucket: bucket, Key: 'probe/a', Body: 'hello' }));
  const object = await s3.send(new GetObjectCommand({ Bucket: bucket, Key: 'probe/a' }));
  const refused = stranger.send(new CreateBucketCommand({ Bucket: 'other' }));

  expect(await object.Body?.transformToString()).toBe('hello');
  await expect(refused).rejects.toMatchObject({ name: 'SignatureDoesNotMatch' });
});

test('the Temporal server lists workflows by the search attributes of the product', async () => {
  const { httpUrl, namespace } = fromLane('temporal');

  const query = encodeURIComponent("KybernateNode = 'a' AND KybernatePhase = 'b'");
  const response = await fetch(`${httpUrl}/api/v1/namespaces/${namespace}/workflows?query=${query}`);

  expect(response.status).toBe(200);
});

/* What cannot work is refused by name; the source runs on, and nothing half-made is listed or lies there. */
import { readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import { COUNTER, countsOn, nothingLeft } from '../harness/aftermath.ts';
import { BUSYBOX, PYTHON, Stack, until } from '../harness/stack.ts';
import { fromLane } from '../harness/provided.ts';

let stack: Stack;
let connection: Connection;
/** Takes as long as a node may take to answer: asked for first, looked at last. */
let elsewhere: Promise<{ readonly error: unknown; readonly ms: number }>;

beforeAll(async () => {
  // It damages what is stored.
  stack = await Stack.open({ store: 'dir' });
  connection = await Connection.connect({ address: fromLane('temporal').address });
  await stack.runContainer('steady', BUSYBOX, COUNTER);
  const began = performance.now();
  elsewhere = stack.checkpoint('steady', { node: 'node-of-nobody' }).then(
    () => ({ error: undefined, ms: performance.now() - began }),
    (error: unknown) => ({ error, ms: performance.now() - began }),
  );
});
afterAll(async () => {
  await connection.close();
  await stack.close();
});

describe('a checkpoint', () => {
  it('of an unknown container is ContainerNotFound', async () => {
    await expect(stack.checkpoint('nobody')).rejects.toMatchObject({
      type: 'ContainerNotFound',
      message: expect.stringContaining('nobody'),
    });

    await nothingLeft(stack);
  });

  it('of a stopped container is ContainerNotRunning', async () => {
    await stack.runContainer('stopped', BUSYBOX, COUNTER);
    await stack.ctr('tasks', 'kill', '-s', 'SIGKILL', 'stopped');
    await until('its end', async () => (await stack.ctr('tasks', 'ls')).includes('STOPPED'));

    await expect(stack.checkpoint('stopped')).rejects.toMatchObject({ type: 'ContainerNotRunning' });

    await stack.ctr('tasks', 'rm', 'stopped');
    await expect(stack.checkpoint('stopped')).rejects.toMatchObject({ type: 'ContainerNotRunning' });
    await nothingLeft(stack);
  });

  it('of a process that uses io_uring is Incompatible, with its reason', async () => {
    const script =
      'import ctypes,time\nlibc=ctypes.CDLL(None,use_errno=True)\n' +
      'ring=libc.syscall(425,8,(ctypes.c_char*120)())\n' +
      'open("/tmp/ring","w").write("ring" if ring>=0 else "errno %d"%ctypes.get_errno())\n' +
      'n=0\nwhile True:\n n+=1\n open("/tmp/n","w").write(str(n))\n time.sleep(0.02)\n';
    await stack.runContainer('uring', PYTHON, ['/usr/bin/python3', '-c', script]);
    await countsOn(stack, 'uring');
    const ring = await stack.read('uring', '/tmp/ring');

    if (ring === 'ring') {
      await expect(stack.checkpoint('uring')).rejects.toMatchObject({
        type: 'Incompatible',
        message: expect.stringMatching(/python3.*uses io_uring.*io_uring_disabled/s),
      });
    } else {
      // EPERM of a sysctl or a filter, ENOSYS of an old kernel: there is nothing to refuse.
      expect(ring).toMatch(/^errno (1|38)$/);
    }

    await countsOn(stack, 'uring');
    await stack.removeContainer('uring');
    await nothingLeft(stack);
  });

  it('with an id that exists on the node is InvalidInput, and the first one stays as it is', async () => {
    const { checkpointId, localPath } = await stack.checkpoint('steady');
    const before = statSync(join(localPath, 'metadata.json')).mtimeMs;

    await expect(stack.checkpoint('steady', { checkpointId })).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining('checkpointId'),
    });

    await countsOn(stack, 'steady');
    expect(statSync(join(localPath, 'metadata.json')).mtimeMs).toBe(before);
    await nothingLeft(stack, [checkpointId]);
    stack.removeLocal(checkpointId);
  });
});

describe('input that a stock Temporal client sends', () => {
  it.each([
    ['checkpoint', [{ node: 'NODE', container: { id: 7 } }], 'container.id'],
    ['checkpoint', [{ node: 'NODE', container: { id: 'steady' }, durability: 'maybe' }], 'durability'],
    ['checkpoint', [{ node: 'NODE', container: { id: 'steady' }, timeouts: { stepMs: -1 } }], 'timeouts.stepMs'],
    ['checkpoint', [{ node: 'NODE', container: { id: 'steady' }, freezeBudget: 5 }], 'freezeBudget'],
    ['checkpoint', [{ node: 'NODE', container: { id: 'a', pod: { namespace: 'n' } } }], 'container.pod.name'],
    ['checkpoint', [{ container: { id: 'steady' } }], 'node'],
    ['checkpoint', ['steady'], 'expected object'],
    ['checkpoint', [], 'expected object'],
    ['restore', [{ node: 'NODE', checkpointId: '../etc' }], 'checkpointId'],
    ['restore', [{ node: 'NODE', path: '/images' }], 'unverified'],
    ['restore', [{ node: 'NODE', checkpointId: 'a', stdio: { kind: 'log' } }], 'stdio.path'],
    ['restore', [{ node: 'NODE' }], 'checkpointId'],
  ])('is InvalidInput that names the field: %s %j → %s', async (type, args, field) => {
    const client = new Client({ connection, namespace: fromLane('temporal').namespace });
    const json = JSON.parse(JSON.stringify(args).replaceAll('NODE', stack.node)) as unknown[];
    const workflowId = `wrong-${type}-${Math.random().toString(16).slice(2)}`;

    const result = client.workflow.execute(type, { workflowId, taskQueue: CONTROL_QUEUE, args: json });

    await expect(result).rejects.toMatchObject({
      cause: { type: 'InvalidInput', message: expect.stringContaining(field), nonRetryable: true },
    });
  });

  it('leaves the container and the node as they were', async () => {
    await countsOn(stack, 'steady');
    await nothingLeft(stack);
  });
});

describe('a restore', () => {
  it.each(['auto', 'local', 'store'] as const)('of no checkpoint is CheckpointNotFound (source %s)', async (source) => {
    await expect(stack.restore('ck-nowhere', 'never', { source })).rejects.toMatchObject({
      type: 'CheckpointNotFound',
      message: expect.stringContaining('ck-nowhere'),
    });

    await nothingStarted('never');
  });

  it('over a container that exists is InvalidInput, and that one runs on', async () => {
    const { checkpointId } = await stack.checkpoint('steady');

    await expect(stack.restore(checkpointId, 'steady')).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining('container.id'),
    });

    await countsOn(stack, 'steady');
    await nothingLeft(stack, [checkpointId]);
    stack.removeLocal(checkpointId);
  });
});

/** Neither container nor snapshot nor directory of a failed restore. */
async function nothingStarted(id: string): Promise<void> {
  expect(await stack.ctr('containers', 'ls', '-q')).not.toContain(id);
  expect(await stack.ctr('snapshots', 'ls')).not.toContain('kybernate-');
  await nothingLeft(stack);
}

/** Changes one byte of a file; the result puts it back. */
function flip(file: string, at: (content: Buffer) => number): () => void {
  const content = readFileSync(file);
  const damaged = Buffer.from(content);
  const offset = at(content);
  damaged[offset] = (damaged[offset] ?? 0) ^ 1;
  writeFileSync(file, damaged);
  return () => writeFileSync(file, content);
}

describe('a damaged checkpoint is CheckpointCorrupt and starts nothing', () => {
  let checkpointId = '';
  let localPath = '';
  const manifest = (): string => join(stack.storeDir, 'checkpoints', checkpointId, 'manifest.json');
  const fileList = (): string => {
    const dir = join(stack.storeDir, 'checkpoints', checkpointId);
    return join(dir, readdirSync(dir).find((name) => name.startsWith('files-')) ?? '');
  };
  const pack = (): string => {
    const dir = join(stack.storeDir, 'packs');
    return join(dir, readdirSync(dir)[0] ?? '');
  };
  const middle = (content: Buffer): number => content.length >> 1;

  beforeAll(async () => {
    ({ checkpointId, localPath } = await stack.checkpoint('steady', { durability: 'verified' }));
    renameSync(localPath, join(stack.dir, 'whole-copy'));
  });

  it.each([
    ['a flipped byte in the root of the manifest', () => flip(manifest(), (text) => text.indexOf('"merkleRoot"') + 20)],
    ['a flipped byte in its metadata', () => flip(manifest(), (text) => text.indexOf('criuVersion') + 15)],
    ['a flipped byte in its syntax', () => flip(manifest(), () => 0)],
    ['a flipped byte in the digest of its file list', () => flip(manifest(), (text) => text.indexOf('"digest"') + 20)],
    ['a flipped byte in the file list', () => flip(fileList(), middle)],
    ['a missing file list', () => takeAway(fileList())],
    ['a flipped byte in a pack', () => flip(pack(), middle)],
    ['a missing pack', () => takeAway(pack())],
    ['a pack that was cut', () => cut(pack())],
  ])('%s', async (_what, damage) => {
    const heal = damage();
    try {
      await expect(stack.restore(checkpointId, 'corrupt')).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    } finally {
      heal();
    }

    await nothingStarted('corrupt');
  });

  it('but not once the store is whole again', async () => {
    const { from, fetchedBytes } = await stack.restore(checkpointId, 'healed');

    expect(from).toBe('store');
    expect(fetchedBytes).toBeGreaterThan(0);
    await countsOn(stack, 'healed');
    await stack.removeContainer('healed');
  });

  it.each(['criu/pages-1.img', 'criu/inventory.img', 'config.json', 'manifest.json'])(
    'a flipped byte in %s of the copy on the node',
    async (name) => {
      const heal = flip(join(localPath, name), middle);
      try {
        await expect(stack.restore(checkpointId, 'corrupt', { source: 'local' })).rejects.toMatchObject({
          type: 'CheckpointCorrupt',
        });
      } finally {
        heal();
      }

      expect(await stack.ctr('containers', 'ls', '-q')).not.toContain('corrupt');
      await nothingLeft(stack, [checkpointId]);
    },
  );

  it('is read from the store with source: store, whatever the copy on the node is', async () => {
    flip(join(localPath, 'criu/pages-1.img'), middle);

    const { from, fetchedBytes } = await stack.restore(checkpointId, 'from-store', { source: 'store' });

    expect(from).toBe('store');
    expect(fetchedBytes).toBeGreaterThan(10_000);
    await countsOn(stack, 'from-store');
    await stack.removeContainer('from-store');
    const again = await stack.restore(checkpointId, 'from-copy', { source: 'local' });
    expect(again.restoreMs).toBe(Math.round(again.restoreMs * 10) / 10);
    await nothingLeft(stack, [checkpointId]);
  });

  it('in the store leaves the copy on the node, which still restores', async () => {
    const heal = flip(pack(), middle);
    try {
      await expect(stack.restore(checkpointId, 'corrupt', { source: 'store' })).rejects.toMatchObject({
        type: 'CheckpointCorrupt',
      });
    } finally {
      heal();
    }

    expect(await stack.ctr('containers', 'ls', '-q')).not.toContain('corrupt');
    expect((await stack.restore(checkpointId, 'from-local', { source: 'local' })).how).toBe('restored');
    await nothingLeft(stack, [checkpointId]);
  });
});

function takeAway(file: string): () => void {
  renameSync(file, `${stack.dir}/away`);
  return () => renameSync(`${stack.dir}/away`, file);
}

function cut(file: string): () => void {
  const content = readFileSync(file);
  writeFileSync(file, content.subarray(0, content.length >> 1));
  return () => writeFileSync(file, content);
}

it('a node that nobody serves is NodeUnavailable within 15 s, and the container is untouched', async () => {
  const { error, ms } = await elsewhere;

  expect(error).toMatchObject({ type: 'NodeUnavailable', message: expect.stringContaining('node-of-nobody') });
  expect(ms).toBeLessThan(15_000);
  await countsOn(stack, 'steady');
});

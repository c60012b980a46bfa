/*
 * A container of a pod of containerd's CRI plug-in, restored beside all pods on the same node while its pod lives: what the
 * pod has in its shared memory, its emptyDirs and its files stays the pod's, and each copy has its own.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { importImages } from '../../cli/dev/images.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { CheckpointResult } from '../../core/contract/checkpoint.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { removeContainer } from '../harness/containers.ts';
import { Cri, CRI_NAMESPACE } from '../harness/cri.ts';
import { makeNetworkNamespace } from '../harness/network.ts';
import { fromLane } from '../harness/provided.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';

/**
 * Counts in a mapped segment of the shared memory and in an open file of the emptyDir. Attributes in a tmpfs are nothing that
 * could be measured before they are read.
 */
const COUNTER = [
  'python3',
  '-c',
  `import mmap, os, time
for name in range(24):
    open(f"/full/{name}", "w")
    os.setxattr(f"/full/{name}", "user.large", bytes(60000))
os.makedirs("/dev/shm/deep")
os.makedirs("/cache/deep")
segment = open("/dev/shm/deep/segment", "w+b")
segment.truncate(4096)
memory = mmap.mmap(segment.fileno(), 4096)
log = open("/cache/deep/log", "w")
count = 0
while True:
    count += 1
    memory[:8] = b"%08d" % count
    log.seek(0)
    log.write(str(count))
    log.flush()
    time.sleep(0.02)`,
];

let dir = '';
let cri: Cri;
let stack: Stack;
let containerd: Containerd;
let network: Awaited<ReturnType<typeof makeNetworkNamespace>>;
/** pid of the container in the pod */
let source: number;
let sourceId: string;
let taken: CheckpointResult;

beforeAll(async () => {
  dir = join(tmpdir(), `kyb-out-${randomBytes(4).toString('hex')}`);
  const [cache, full] = ['cache', 'full'].map((name) =>
    join(dir, 'pods/web-0-uid/volumes/kubernetes.io~empty-dir', name),
  ) as [string, string];
  mkdirSync(cache, { recursive: true });
  mkdirSync(full);
  await runExeca('mount', ['-t', 'tmpfs', 'kybernate-test', full]);
  network = await makeNetworkNamespace(`kyo${randomBytes(3).toString('hex')}`, 37);
  cri = await Cri.start({ dir: join(dir, 'c'), runDir: fromLane('containerd').runDir, images: [PYTHON] });
  const { address } = cri.containerd;
  stack = await Stack.open({
    env: {
      KYBERNATE_CONTAINERD_ADDRESS: address,
      CONTAINERD_ADDRESS: address,
      KYBERNATE_KUBELET_DIR: dir,
      KYBERNATE_VOLUME_LIMIT: '1MiB',
    },
  });
  await importImages(cri.containerd, stack.namespace, [PYTHON], process.env);
  containerd = connectContainerd(address);
  const pod = await cri.runPod('web-0');
  sourceId = await cri.startContainer(pod, 'app', {
    image: PYTHON,
    command: COUNTER,
    volumes: { '/cache': cache, '/full': full },
  });
  source = await cri.pidOf(sourceId);
  await until('the counter to move', () => countOf(source) > 5);
  taken = await checkpoint(CRI_NAMESPACE, sourceId, ['cache', '/dev/shm']);
});
afterAll(async () => {
  containerd?.close();
  await stack?.close();
  await cri?.close();
  await network?.remove();
  await runExeca('umount', [join(dir, 'pods/web-0-uid/volumes/kubernetes.io~empty-dir/full')]);
  rmSync(dir, { recursive: true, force: true });
});

const inside = (pid: number, path: string): string => `/proc/${pid}/root${path}`;
const read = (pid: number, path: string): string => readFileSync(inside(pid, path), 'utf8');
const SEGMENT = '/dev/shm/deep/segment';

function countOf(pid: number): number {
  return existsSync(inside(pid, SEGMENT)) ? Number(read(pid, SEGMENT).slice(0, 8)) : 0;
}

function checkpoint(namespace: string, id: string, captureVolumes?: string[]): Promise<CheckpointResult> {
  const container = { id, namespace };
  return stack.checkpoint(id, { container, ...(captureVolumes === undefined ? {} : { captureVolumes }) });
}

/** @returns pid of its first process */
async function restore(checkpointId: string, id: string): Promise<number> {
  await stack.restore(checkpointId, id, { networkNamespace: network.path });
  return (await containerd.getTask(stack.namespace, id))?.pid ?? 0;
}

async function expectGoesOn(pid: number, since: number): Promise<void> {
  const first = countOf(pid);
  expect(first).toBeGreaterThan(since);
  await until('the count to go on', () => countOf(pid) > first && Number(read(pid, '/cache/deep/log')) > first);
}

/** Which file it is. */
const idOf = (pid: number, path: string): string => {
  const { dev, ino } = statSync(inside(pid, path));
  return `${dev}:${ino}`;
};

test('a volume that the container does not have is refused by its name, and nothing is frozen', async () => {
  await expect(checkpoint(CRI_NAMESPACE, sourceId, ['cash'])).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringContaining('captureVolumes of the request names the volume cash') as string,
  });
});

test('volumes that are too large are refused before the freeze; in it the capture is undone, and the source goes on', async () => {
  writeFileSync(inside(source, '/cache/large'), Buffer.alloc(2 ** 21, 1));
  await expect(checkpoint(CRI_NAMESPACE, sourceId, ['cache', '/dev/shm'])).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringMatching(/\(\/dev\/shm, cache\) take \d+ bytes as archives, 1048576 are allowed/) as string,
  });
  rmSync(inside(source, '/cache/large'));
  await expect(checkpoint(CRI_NAMESPACE, sourceId, ['full', 'cache', '/dev/shm'])).rejects.toMatchObject({
    type: 'DumpFailed',
    message: expect.stringContaining('KYBERNATE_VOLUME_LIMIT') as string,
  });

  await expectGoesOn(source, 5);
  expect(stack.localCheckpoints()).toEqual([`checkpoint-${taken.checkpointId}`]);
});

test("two copies at once leave the pod's shared memory, volume and files alone, and each has its own", async () => {
  const captured = 5;
  const later = countOf(source);
  for (const path of ['/dev/shm/later', '/cache/later']) {
    writeFileSync(inside(source, path), 'of the pod');
  }
  const hosts = read(source, '/etc/hosts');

  const copies = await Promise.all(['copy-a', 'copy-b'].map((id) => restore(taken.checkpointId, id)));

  for (const pid of [source, ...copies]) {
    await expectGoesOn(pid, pid === source ? later : captured);
  }
  expect(read(source, '/dev/shm/later') + read(source, '/cache/later')).toBe('of the podof the pod');
  for (const path of [SEGMENT, '/cache/deep/log', '/etc/hosts', '/etc/resolv.conf']) {
    expect(new Set([source, ...copies].map((pid) => idOf(pid, path))).size, path).toBe(3);
  }
  const [first = 0, second = 0] = copies;
  expect(existsSync(inside(first, '/dev/shm/later')) || existsSync(inside(first, '/cache/later'))).toBe(false);
  writeFileSync(inside(first, '/etc/hosts'), 'changed\n');
  expect([read(source, '/etc/hosts'), read(second, '/etc/hosts')]).toEqual([hosts, hosts]);
  await removeContainer(containerd, stack.namespace, 'copy-b');
});

test('a copy is captured with its volume, and its copy has its own again', async () => {
  const copy = (await containerd.getTask(stack.namespace, 'copy-a'))?.pid ?? 0;
  writeFileSync(inside(copy, '/cache/of-the-copy'), 'kept');
  const again = await checkpoint(stack.namespace, 'copy-a');
  const { volumes } = JSON.parse(readFileSync(join(again.localPath, 'metadata.json'), 'utf8')) as Metadata;

  const third = await restore(again.checkpointId, 'copy-c');

  expect(volumes?.map(({ name, destination }) => [name, destination])).toEqual([
    ['cache', '/cache'],
    ['full', '/full'],
  ]);
  await expectGoesOn(third, 5);
  await expectGoesOn(copy, 5);
  expect(read(third, '/cache/of-the-copy')).toBe('kept');
  expect(read(third, '/etc/hosts')).toBe('changed\n');
  expect(idOf(third, '/cache')).not.toBe(idOf(copy, '/cache'));
  for (const id of ['copy-a', 'copy-c']) {
    await removeContainer(containerd, stack.namespace, id);
  }
});

/*
 * Archives of the kubelet's checkpoint API, as containerd's CRI plug-in writes them: taken by us, and made by us in their
 * form. containerd 2.4 itself restores none; that older ones restore ours `npm run matrix` shows. And checkpoint images
 * that go by a registry.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { importImages } from '../../cli/dev/images.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { Cri, CRI_NAMESPACE } from '../harness/cri.ts';
import { makeNetworkNamespace } from '../harness/network.ts';
import { Podman } from '../harness/podman.ts';
import { fromLane } from '../harness/provided.ts';
import { startRegistry } from '../harness/registry.ts';
import { runCliJson } from '../harness/run-cli.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';

/** One process: runc 1.5 cannot freeze a tree that forks all the time on a busy machine with cgroup v1. */
const COUNTER = [
  'python3',
  '-c',
  `import os, time
os.remove("/bin/vi")
open("/data/own", "w").write("mine")
count = 0
# Always open: two checkpoints of it find the same descriptors.
told = os.open("/tmp/n", os.O_RDWR | os.O_CREAT)
while True:
    count += 1
    os.pwrite(told, b"%09d" % count, 0)
    time.sleep(0.02)`,
];

let dir = '';
let cri: Cri;
let stack: Stack;
let containerd: Containerd;
let network: Awaited<ReturnType<typeof makeNetworkNamespace>>;

beforeAll(async () => {
  // Podman 4.3 makes a name of the path of an image layout: no capitals.
  dir = join(tmpdir(), `kyb-cri-${randomBytes(4).toString('hex')}`);
  mkdirSync(join(dir, 'checkpoints'), { recursive: true });
  network = await makeNetworkNamespace(`kyc${randomBytes(3).toString('hex')}`, 21);
  cri = await Cri.start({ dir: join(dir, 'c'), runDir: fromLane('containerd').runDir, images: [PYTHON] });
  const { address } = cri.containerd;
  stack = await Stack.open({
    env: {
      KYBERNATE_CONTAINERD_ADDRESS: address,
      CONTAINERD_ADDRESS: address,
      KYBERNATE_KUBELET_DIR: dir,
    },
  });
  await importImages(cri.containerd, stack.namespace, [PYTHON], process.env);
  containerd = connectContainerd(address);
});
afterEach(async () => {
  await cri.removeAll();
});
afterAll(async () => {
  containerd?.close();
  await stack?.close();
  await cri?.close();
  await network?.remove();
  rmSync(dir, { recursive: true, force: true });
});

const inRoot = (pid: number, path: string): string => readFileSync(`/proc/${pid}/root${path}`, 'utf8');
const countOf = (pid: number): number => (existsSync(`/proc/${pid}/root/tmp/n`) ? Number(inRoot(pid, '/tmp/n')) : 0);

async function startCounter(handler?: string): Promise<string> {
  const pod = await cri.runPod('web-0', handler);
  const id = await cri.startContainer(pod, 'app', { image: PYTHON, command: COUNTER });
  const pid = await cri.pidOf(id);
  await until('the counter to move', () => countOf(pid) > 5);
  return id;
}

interface ImportedJson {
  readonly checkpointId: string;
  readonly origin: {
    readonly format: string;
    readonly form: string;
    readonly specChanges: ReadonlyArray<{ readonly field: string }>;
  };
  readonly warnings: readonly string[];
}

function importArchive(archive: string, id: string): Promise<ImportedJson> {
  return runCliJson<ImportedJson>(stack.variables, 'import', archive, '--id', id, '--namespace', stack.namespace);
}

/** By the node worker, into the store, for the namespace of its pod alone; and away again from both. */
async function expectImportedByWorkflow(archive: string, checkpointId: string): Promise<void> {
  const { client, node } = stack;
  const outside = await client.importCheckpoint({ node, archive: '/etc/hostname', checkpointId });
  await expect(outside.result()).rejects.toMatchObject({ type: 'RestoreRefused' });
  const others = await client.importCheckpoint({ node, archive, checkpointId, podNamespace: 'lab' });
  await expect(others.result()).rejects.toMatchObject({
    type: 'RestoreRefused',
    message: expect.stringContaining('a pod of namespace shop') as string,
  });

  const work = await client.importCheckpoint({ node, archive, checkpointId, podNamespace: 'shop' });
  expect(await work.result()).toMatchObject({
    checkpointId,
    created: true,
    durability: 'remote',
    pod: { namespace: 'shop', name: 'web-0', container: 'app' },
  });
  const away = await client.deleteCheckpoint({ checkpointId, nodes: [node] });
  expect(await away.result()).toMatchObject({ store: { found: true }, nodes: [{ node, found: true }] });

  expect(existsSync(join(stack.stateDir, 'checkpoints', `checkpoint-${checkpointId}`))).toBe(false);
  const again = await client.deleteCheckpoint({ checkpointId, nodes: [node] });
  expect(await again.result()).toMatchObject({ store: { found: false }, nodes: [{ found: false }] });
}

/** The container that comes back is beside all pods, in a network that is there. @returns pid of its first process */
async function restore(checkpointId: string, id: string): Promise<number> {
  await stack.restore(checkpointId, id, { networkNamespace: network.path });
  return (await containerd.getTask(stack.namespace, id))?.pid ?? 0;
}

async function expectGoesOn(pid: number): Promise<void> {
  const first = countOf(pid);
  expect(first).toBeGreaterThan(5);
  await until('the counter to go on', () => countOf(pid) > first);
  expect(inRoot(pid, '/data/own')).toBe('mine');
  expect(() => inRoot(pid, '/bin/vi')).toThrow('ENOENT');
}

async function removeRestored(id: string): Promise<void> {
  const ctr = (...args: string[]): Promise<unknown> => cri.containerd.ctr(['-n', stack.namespace, ...args]);
  await ctr('tasks', 'rm', '-f', id);
  await ctr('containers', 'rm', id);
}

/** Everything that checkpointctl knows, but what two dumps one after the other need not have in common. */
async function inspected(archive: string): Promise<{ facts: Record<string, unknown>; statistics: object }> {
  const args = ['inspect', '--all', '--format', 'json', archive];
  const result = await runExeca(requireProgram('checkpointctl', process.env), args, { timeoutMs: 30_000 });
  expect(result.exitCode, result.stderr).toBe(0);
  const [found] = JSON.parse(result.stdout) as [Record<string, unknown>];
  const { checkpointed: _when, checkpoint_size: _size, statistics, ...facts } = found;
  return { facts, statistics: statistics as object };
}

async function contentOf(archive: string, name: string): Promise<unknown> {
  const result = await runExeca('tar', ['-xOf', archive, name]);
  return JSON.parse(result.stdout) as unknown;
}

async function topLevel(archive: string): Promise<string[]> {
  const { stdout } = await runExeca('tar', ['-tf', archive]);
  const names = stdout.split('\n').map((name) => name.replace(/^\.\//, '').split('/')[0] ?? '');
  return [...new Set(names)].filter((name) => name !== '').sort();
}

test.each(['runc', 'kybernate'])(
  "what containerd wrote for the kubelet, of a pod with the runtime %s, is imported and goes on beside containerd's pods",
  async (handler) => {
    const id = await startCounter(handler);
    const archive = join(dir, 'checkpoints', `${handler}.tar`);
    await cri.checkpoint(id, archive);
    await cri.removeAll();

    const imported = await importArchive(archive, `from-${handler}`);
    await expectImportedByWorkflow(archive, `workflow-${handler}`);
    const back = await restore(imported.checkpointId, `back-${handler}`);

    await expectGoesOn(back);
    expect(imported.origin.format).toBe('containerd');
    expect(imported.origin.specChanges.map(({ field }) => field)).toEqual(
      expect.arrayContaining([
        'linux.cgroupsPath',
        'mounts[/etc/hosts]',
        'mounts[/dev/shm]',
        'mounts[/etc/resolv.conf]',
      ]),
    );
    await removeRestored(`back-${handler}`);
  },
);

test("our export of a pod's container says what containerd's own archive of it says, and is imported again", async () => {
  const id = await startCounter();
  const theirs = join(dir, 'theirs.tar');
  const ours = join(dir, 'ours.tar');
  await cri.checkpoint(id, theirs);
  const { checkpointId } = await stack.checkpoint(id, { container: { id, namespace: CRI_NAMESPACE } });
  const { rootfsImageRef: image } = (await contentOf(theirs, 'config.dump')) as { rootfsImageRef: string };
  const flags = ['--format', 'cri', '--image-id', image.replace('sha256:', ''), '-o', ours];
  await runCliJson(stack.variables, 'export', checkpointId, ...flags);

  const [before, after] = [await inspected(theirs), await inspected(ours)];
  expect(after.facts).toEqual(before.facts);
  expect(after.facts).toMatchObject({ container_name: 'app', engine: 'containerd', process_tree: { pid: 1 } });
  expect(Object.keys(after.statistics).sort()).toEqual(Object.keys(before.statistics).sort());
  expect(await contentOf(ours, 'spec.dump')).toEqual(await contentOf(theirs, 'spec.dump'));
  const {
    checkpointedTime: _checkpointed,
    createdTime: _created,
    ...config
  } = (await contentOf(ours, 'config.dump')) as Record<string, unknown>;
  expect(await contentOf(theirs, 'config.dump')).toMatchObject(config);
  const common = (await topLevel(theirs)).filter((name) => name !== 'container.log');
  expect(await topLevel(ours)).toEqual([...common, 'devshm-checkpoint.tar'].sort());
  const pod = await cri.runPod('web-1');
  await expect(cri.startContainer(pod, 'app', { image: ours })).rejects.toThrow('resolve image');
  await cri.removeAll();
  const imported = await importArchive(ours, 'round-trip');
  const back = await restore(imported.checkpointId, 'back-ours');
  await expectGoesOn(back);
  await removeRestored('back-ours');
});

interface ImageManifest {
  readonly layers: ReadonlyArray<{ readonly mediaType: string }>;
  readonly annotations?: Readonly<Record<string, string>>;
}

function manifestIn(layout: string): ImageManifest {
  const read = (path: string): unknown => JSON.parse(readFileSync(join(layout, path), 'utf8'));
  const { manifests } = read('index.json') as { manifests: ReadonlyArray<{ digest: string }> };
  return read(`blobs/sha256/${manifests[0]?.digest.replace('sha256:', '') ?? ''}`) as ImageManifest;
}

test('a checkpoint image is pushed to a registry and pulled from it by Podman and containerd, and goes on there', async () => {
  const registry = await startRegistry(join(dir, 'registry'));
  const [here, there] = [new Podman(join(dir, 'pa')), new Podman(join(dir, 'pb'))];
  const [sent, received] = [join(dir, 'sent'), join(dir, 'received')];
  const image = `${registry.address}/team/counter:1`;
  const { checkpointId } = await checkpointAndStop();

  await runCliJson(stack.variables, 'export', checkpointId, '--format', 'oci', '-o', `${sent}:one`);
  try {
    const id = await here.run('pull', '--quiet', `oci:${sent}:one`);
    await here.run('push', '--tls-verify=false', id, `docker://${image}`);
    await there.run('pull', '--quiet', '--tls-verify=false', `docker://${image}`);
    await there.run('push', image, `oci:${received}:two`);
    await cri.containerd.ctrOk(['-n', stack.namespace, 'images', 'pull', '--plain-http', image]);
  } finally {
    await here.close();
    await there.close();
    await registry.close();
  }
  const imported = await importArchive(`${received}:two`, 'pulled');
  const back = await restore(imported.checkpointId, 'back-pulled');

  await expectGoesOn(back);
  expect(imported.origin).toMatchObject({ format: 'podman', form: 'oci-image' });
  // What says that it is a checkpoint, and of what, comes along; the layer was packed on its way.
  expect(manifestIn(received).annotations).toEqual(manifestIn(sent).annotations);
  expect(manifestIn(received).layers[0]?.mediaType).toContain('gzip');
  await removeRestored('back-pulled');
});

async function checkpointAndStop(): Promise<{ checkpointId: string }> {
  const id = await startCounter();
  const result = await stack.checkpoint(id, { container: { id, namespace: CRI_NAMESPACE }, after: 'stop' });
  await cri.removeAll();
  return result;
}

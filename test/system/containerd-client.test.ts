import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { grpcCodeOf } from '../../native/containerd/channel.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd, ContainerRecord } from '../../native/containerd/containerd.ts';
import { encodeRuncOptions } from '../../native/containerd/runc-options.ts';
import { BUSYBOX, until } from '../harness/stack.ts';
import { fromLane } from '../harness/provided.ts';

const SIGKILL = 9;
const COUNT = ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i > /run/count; sleep 0.05; done'];
let containerd: Containerd;
let namespace: string;
let dir: string;
const made: string[] = [];

beforeAll(() => {
  const provided = fromLane('containerd');
  namespace = provided.namespace;
  containerd = connectContainerd(provided.address);
  dir = mkdtempSync(join(provided.dir, 'client-'));
});
afterEach(async () => {
  for (const id of made.splice(0)) {
    await containerd.killTask(namespace, id, SIGKILL, true);
    await until(`the end of ${id}`, async () => {
      const task = await containerd.getTask(namespace, id);
      return task === undefined || task.status === 'stopped';
    });
    await containerd.deleteTask(namespace, id);
    const record = await containerd.getContainer(namespace, id);
    await containerd.deleteContainer(namespace, id);
    await containerd.removeSnapshot(namespace, record?.snapshotter ?? 'overlayfs', record?.snapshotKey ?? id);
  }
});
afterAll(() => {
  containerd.close();
  rmSync(dir, { recursive: true });
});

async function run(id: string): Promise<void> {
  made.push(id);
  const { dir: root } = fromLane('containerd');
  await openContainerd(root, process.env).ctrOk(['-n', namespace, 'run', '-d', '--null-io', BUSYBOX, id, ...COUNT]);
}

/** The same container under another id, with a cgroup and a snapshot of its own. */
function withId(model: ContainerRecord | undefined, id: string): ContainerRecord {
  const spec = JSON.parse(model?.spec ?? '{}') as { linux: object };
  const linux = { ...spec.linux, cgroupsPath: `/${namespace}/${id}` };
  return { ...(model as ContainerRecord), id, snapshotKey: id, spec: JSON.stringify({ ...spec, linux }) };
}

function count(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/root/run/count`, 'utf8'));
}

test('a container of ctr is found whole, by id and by label', async () => {
  await run('seen');

  const record = await containerd.getContainer(namespace, 'seen');
  const listed = await containerd.listContainers(namespace, ['id==seen']);
  const task = await containerd.getTask(namespace, 'seen');

  expect(record).toMatchObject({ id: 'seen', image: BUSYBOX, snapshotter: 'overlayfs', snapshotKey: 'seen' });
  expect(record?.runtime.options?.typeUrl).toBe('containerd.runc.v1.Options');
  expect(JSON.parse(record?.spec ?? '')).toMatchObject({ process: { args: COUNT } });
  expect(listed).toEqual([record]);
  expect(task).toMatchObject({ id: 'seen', status: 'running', terminal: false });
  expect(await containerd.version()).toMatch(/^\d+\./);
  expect(await containerd.getImage(namespace, BUSYBOX)).toMatchObject({
    name: BUSYBOX,
    digest: expect.stringMatching(/^sha256:/),
  });
});

test('what is absent is undefined, another namespace is another world, deletion twice is success', async () => {
  await run('here');

  expect(await containerd.getContainer(namespace, 'nope')).toBeUndefined();
  expect(await containerd.getTask(namespace, 'nope')).toBeUndefined();
  expect(await containerd.getImage(namespace, 'nope')).toBeUndefined();
  expect(await containerd.statSnapshot(namespace, 'overlayfs', 'nope')).toBeUndefined();
  expect(await containerd.snapshotterDir('nope')).toBeUndefined();
  expect(await containerd.snapshotterDir('overlayfs')).toMatch(/^\/.*overlayfs$/);
  expect(await containerd.snapshotterCapabilities('nope')).toEqual([]);
  expect(await containerd.snapshotterCapabilities('overlayfs')).toContain('rebase');
  expect(await containerd.getContainer('elsewhere', 'here')).toBeUndefined();
  expect(await containerd.deleteTask(namespace, 'nope')).toBeUndefined();
  await containerd.deleteContainer(namespace, 'nope');
  await containerd.removeSnapshot(namespace, 'overlayfs', 'nope');
  await expect(containerd.startTask(namespace, 'nope')).rejects.toMatchObject({ type: 'ContainerNotFound' });
});

test('a container is made, started, paused, resumed, ended and removed', async () => {
  await run('model');
  const model = await containerd.getContainer(namespace, 'model');
  const parent = (await containerd.statSnapshot(namespace, 'overlayfs', 'model'))?.parent ?? '';
  made.push('made');

  const rootfs = await containerd.prepareSnapshot(namespace, 'overlayfs', 'made', parent, { purpose: 'test' });
  expect((await containerd.statSnapshot(namespace, 'overlayfs', 'made'))?.labels).toEqual({ purpose: 'test' });
  const record = { ...withId(model, 'made'), labels: { a: 'b' } };
  await containerd.createContainer(namespace, record);
  const io = { stdin: '/dev/null', stdout: '/dev/null', stderr: '/dev/null', terminal: false };
  const created = await containerd.createTask(namespace, { id: 'made', rootfs, ...io });
  expect((await containerd.getTask(namespace, 'made'))?.status).toBe('created');
  const { pid } = await containerd.startTask(namespace, 'made');
  expect(pid).toBe(created.pid);
  await until('the counter', () => existsSync(`/proc/${pid}/root/run/count`) && count(pid) > 2);

  await containerd.pauseTask(namespace, 'made');
  expect((await containerd.getTask(namespace, 'made'))?.status).toBe('paused');
  await containerd.resumeTask(namespace, 'made');
  const ended = containerd.waitTask(namespace, 'made');
  await containerd.killTask(namespace, 'made', SIGKILL, false);

  expect(await ended).toEqual({ exitStatus: 137 });
  expect(await containerd.deleteTask(namespace, 'made')).toEqual({ exitStatus: 137 });
  expect((await containerd.getContainer(namespace, 'made'))?.labels).toEqual({ a: 'b' });
  const again: unknown = await containerd.createContainer(namespace, record).catch((error: unknown) => error);
  expect(grpcCodeOf(again)).toBe('ALREADY_EXISTS');
});

test('Tasks.Checkpoint leaves the source running, and its images restore by the options of Tasks.Create', async () => {
  await run('source');
  const source = (await containerd.getTask(namespace, 'source'))?.pid ?? 0;
  await until('the counter', () => existsSync(`/proc/${source}/root/run/count`) && count(source) > 2);
  const imagePath = join(dir, 'images');
  const workPath = join(dir, 'work');

  const flags = { openTcp: false, externalUnixSockets: false, terminal: false, fileLocks: false };
  await containerd.checkpointTask(namespace, 'source', { imagePath, workPath, exit: false, ...flags });
  const before = count(source);

  expect(readdirSync(imagePath)).toContain('inventory.img');
  expect(readdirSync(workPath)).toContain('stats-dump');
  await until('the source to go on', () => count(source) > before);

  const record = withId(await containerd.getContainer(namespace, 'source'), 'target');
  const parent = (await containerd.statSnapshot(namespace, 'overlayfs', 'source'))?.parent ?? '';
  made.push('target');
  const rootfs = await containerd.prepareSnapshot(namespace, 'overlayfs', 'target', parent, {});
  await containerd.createContainer(namespace, record);
  const criuWorkPath = join(dir, 'restore-work');
  mkdirSync(criuWorkPath);
  await containerd.createTask(namespace, {
    id: 'target',
    rootfs,
    stdin: '/dev/null',
    stdout: '/dev/null',
    stderr: '/dev/null',
    terminal: false,
    options: encodeRuncOptions({ criuImagePath: imagePath, criuWorkPath }),
  });
  const { pid } = await containerd.startTask(namespace, 'target');

  await until('the restored counter', () => existsSync(`/proc/${pid}/root/run/count`) && count(pid) >= before - 1);
  expect(count(pid)).toBeGreaterThan(2);
});

test('a refused dump carries the words of runc', async () => {
  await run('refused');
  await containerd.pauseTask(namespace, 'refused');
  await containerd.resumeTask(namespace, 'refused');
  const flags = { openTcp: false, externalUnixSockets: false, terminal: false, fileLocks: false, exit: false };

  const error: unknown = await containerd
    .checkpointTask(namespace, 'refused', { imagePath: '/proc/nope', workPath: '/proc/nope', ...flags })
    .catch((thrown: unknown) => thrown);

  expect(error).toMatchObject({ type: 'Internal', details: { call: 'tasks.v1.Tasks/Checkpoint' } });
  expect(String(error)).toContain('/proc/nope');
});

test('the difference of two snapshots is read back as a layer; its lease collects it', async () => {
  await run('changed');
  const pid = (await containerd.getTask(namespace, 'changed'))?.pid ?? 0;
  writeFileSync(`/proc/${pid}/root/new-file`, 'new');
  const parent = (await containerd.statSnapshot(namespace, 'overlayfs', 'changed'))?.parent ?? '';

  await containerd.createLease(namespace, 'diff-lease', { why: 'test' });
  await containerd.createLease(namespace, 'diff-lease', { why: 'again' });
  const left = await containerd.viewSnapshot(namespace, 'overlayfs', 'diff-view', parent, 'diff-lease');
  const right = await containerd.snapshotMounts(namespace, 'overlayfs', 'changed');
  const { digest, size } = await containerd.diff(namespace, left, right, 'diff-ref', 'diff-lease');
  const chunks: Uint8Array[] = [];
  for await (const chunk of containerd.readContent(namespace, digest)) {
    chunks.push(chunk);
  }
  const layer = Buffer.concat(chunks);
  await containerd.removeSnapshot(namespace, 'overlayfs', 'diff-view');
  await containerd.deleteLease(namespace, 'diff-lease');
  await containerd.deleteLease(namespace, 'diff-lease');

  expect(layer.length).toBe(size);
  expect(layer.toString('latin1')).toContain('new-file');
});

test('a wait ends with the abort, the task goes on', async () => {
  await run('waited');
  const controller = new AbortController();
  const waiting = containerd.waitTask(namespace, 'waited', controller.signal);
  const reason = new Error('enough');

  controller.abort(reason);

  await expect(waiting).rejects.toBe(reason);
  expect((await containerd.getTask(namespace, 'waited'))?.status).toBe('running');
});

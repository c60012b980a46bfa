/*
 * A container whose root is an ordinary user of the host: CRIU brings it back as that user, who reads the images through
 * what he is shown of them, while they stay root's.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { readMounts } from '../../native/proc/mounts.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { fromLane } from '../harness/provided.ts';
import { BUSYBOX, PYTHON, Stack, until } from '../harness/stack.ts';

const ROOT_ON_HOST = 231_072;
const MAPPED = ['--uidmap', `0:${ROOT_ON_HOST}:65536`, '--gidmap', `0:${ROOT_ON_HOST}:65536`];
/** Its own, since a bind mount of the sources would have to be reached by that user. */
const COUNTER = `
import json, os, time, uuid
token = [uuid.uuid4().hex, "x" * 3_000_000]
open("/tmp/own", "w").write(token[0])
count = 0
while True:
    count += 1
    with open("/tmp/next", "w") as file:
        json.dump({"token": token[0], "size": len(token[1]), "count": count, "uid": os.getuid()}, file)
    os.rename("/tmp/next", "/tmp/state.json")
    time.sleep(0.05)
`;

interface State {
  readonly token: string;
  readonly size: number;
  readonly count: number;
  readonly uid: number;
}

let stack: Stack;
let containerd: Containerd;

beforeAll(async () => {
  stack = await Stack.open();
  containerd = connectContainerd(fromLane('containerd').address);
});
afterAll(async () => {
  containerd?.close();
  await stack?.close();
});

async function initOf(id: string): Promise<number> {
  return (await containerd.getTask(stack.namespace, id))?.pid ?? 0;
}

async function state(id: string, path = '/tmp/state.json'): Promise<State> {
  return JSON.parse(readFileSync(`/proc/${await initOf(id)}/root${path}`, 'utf8')) as State;
}

async function start(id: string, flags: readonly string[]): Promise<State> {
  await stack.runContainer(id, PYTHON, ['/usr/bin/python3', '-c', COUNTER], [...MAPPED, ...flags]);
  await until(`${id} to count`, async () => ((await state(id).catch(() => undefined))?.count ?? 0) > 2);
  return state(id);
}

async function countsOn(id: string): Promise<State> {
  const { count } = await state(id);
  await until(`${id} to count on`, async () => (await state(id)).count > count + 2);
  return state(id);
}

/** Hosts ids of its first process, and of a file that it wrote. */
async function owners(id: string): Promise<[uid: number | undefined, gid: number]> {
  const pid = await initOf(id);
  return [readProcess(pid)?.uid, statSync(`/proc/${pid}/root/tmp/own`).gid];
}

test('it goes on after the end of its source, from the store, and again from a checkpoint of the restored one', async () => {
  const before = await start('mapped', []);

  const first = await stack.checkpoint('mapped', { after: 'stop', durability: 'verified' });
  const images = join(first.localPath, 'criu');
  const open = readdirSync(images).filter((name) => (statSync(join(images, name)).mode & 0o007) !== 0);
  // Its copy of the image goes with it: another node would not have that either.
  await stack.removeContainer('mapped');
  stack.removeLocal(first.checkpointId);
  const restored = await stack.restore(first.checkpointId, 'mapped-2');
  const between = await countsOn('mapped-2');
  const second = await stack.checkpoint('mapped-2', { after: 'stop' });
  await stack.removeContainer('mapped-2');
  await stack.restore(second.checkpointId, 'mapped-3');
  const after = await countsOn('mapped-3');

  expect([restored.how, restored.from]).toEqual(['restored', 'store']);
  expect(open).toEqual([]);
  expect(between).toMatchObject({ token: before.token, size: 3_000_000, uid: 0 });
  expect(after.token).toBe(before.token);
  expect(after.count).toBeGreaterThan(between.count);
  expect(await owners('mapped-3')).toEqual([ROOT_ON_HOST, ROOT_ON_HOST]);
  expect(readMounts('self').filter(({ source }) => source === 'kybernate')).toEqual([]);
});

test('of a user of the namespace, on layers that the snapshotter shows as those of its users, too', async () => {
  const before = await start('labelled', ['--remap-labels', '--user', '1000:1000']);

  const { checkpointId, localPath } = await stack.checkpoint('labelled', { after: 'stop' });
  await stack.removeContainer('labelled');
  const [a, b] = await Promise.all([stack.restore(checkpointId, 'l-a'), stack.restore(checkpointId, 'l-b')]);

  expect([a.how, b.how]).toEqual(['restored', 'restored']);
  expect(await countsOn('l-a')).toMatchObject({ token: before.token, uid: 1000 });
  expect(await countsOn('l-b')).toMatchObject({ token: before.token, uid: 1000 });
  expect(await owners('l-a')).toEqual([ROOT_ON_HOST + 1000, ROOT_ON_HOST + 1000]);
  expect(statSync(join(localPath, 'criu')).uid).toBe(0);
});

test('one that was made inside of a container is refused before the freeze, with the reason', async () => {
  const count = 'i=0; while true; do i=$((i+1)); echo $i > /tmp/n; sleep 0.02; done';
  await stack.runContainer('nested', BUSYBOX, ['/bin/sh', '-c', `unshare -U sleep 1000 & ${count}`]);
  const counted = async (): Promise<number> => Number(await stack.read('nested', '/tmp/n').catch(() => '0'));
  await until('it to count', async () => (await counted()) > 20);

  await expect(stack.checkpoint('nested')).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringMatching(/made namespaces of its own inside \(user\), which CRIU cannot dump/) as string,
  });

  const then = await counted();
  await until('it to count on', async () => (await counted()) > then);
  expect(stack.freezerOf('nested')).toBe('THAWED');
  expect(stack.operations()).toEqual([]);
});

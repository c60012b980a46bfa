/*
 * The agent of a real node worker: operations by curl and by gRPC, and restores as a CRI runtime asks for them, with the
 * annotations that containerd writes into the containers of a pod.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Client, credentials } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { openContainerd } from '../../cli/dev/containerd-client.ts';
import type { AgentOperation } from '../../core/contract/agent-operations.ts';
import type { CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { RestoreResult } from '../../core/contract/restore.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import type { RunResult } from '../../native/run/run.ts';
import { loadProto, serviceOf } from '../../workers/grpc-service.ts';
import { fromLane } from '../harness/provided.ts';
import { RUNTIME } from '../harness/shim-node.ts';
import { BUSYBOX, Stack, until } from '../harness/stack.ts';

const COUNT = 'i=0; while :; do i=$((i+1)); echo $i >/dev/shm/count; sleep 0.05; done';

/** What a container that is not restored counts. */
const FRESH = 'echo 0 >/dev/shm/count; sleep 1000';

let stack: Stack;
let socket: string;
let kubeletDir: string;

beforeAll(async () => {
  kubeletDir = mkdtempSync(join(fromLane('containerd').dir, 'k-'));
  stack = await Stack.open({ env: { KYBERNATE_RESTORE_GRANTS: 'lab=shop', KYBERNATE_KUBELET_DIR: kubeletDir } });
  socket = join(stack.runDir, 'agent.sock');
});
afterAll(async () => {
  await stack?.close();
  rmSync(kubeletDir, { recursive: true, force: true });
});

async function curl(path: string, body?: object): Promise<unknown> {
  const data = body === undefined ? [] : ['--data', JSON.stringify(body)];
  const result = await runExeca('curl', ['-sS', '--unix-socket', socket, ...data, `http://agent${path}`]);
  if (result.exitCode !== 0) {
    throw new Error(result.stderr);
  }
  return JSON.parse(result.stdout.trim().split('\n').at(-1) ?? '');
}

const count = async (id: string): Promise<number> => Number(await stack.read(id, '/dev/shm/count'));

async function startCounter(id: string, flags: readonly string[] = []): Promise<void> {
  await stack.runContainer(id, BUSYBOX, ['sh', '-c', COUNT], flags);
  await until('the first count', async () => (await count(id).catch(() => 0)) > 0);
}

function watch(workflowId: string): AsyncIterable<object> & { cancel(): void } {
  const grpc = new Client(`unix:${socket}`, credentials.createInsecure());
  const { path, requestSerialize, responseDeserialize } = serviceOf(
    loadProto('agent.proto'),
    'kybernate.agent.v1.NodeAgentService',
  )['WatchOperation'] as unknown as {
    path: string;
    requestSerialize: (value: object) => Buffer;
    responseDeserialize: (bytes: Buffer) => object;
  };
  const stream = grpc.makeServerStreamRequest(path, requestSerialize, responseDeserialize, { workflowId });
  stream.once('close', () => grpc.close());
  return stream;
}

describe('an operation by the socket of the agent', () => {
  it('goes on through the end of the agent that started it, and its key joins it', async () => {
    await startCounter('steady');
    const container = { id: 'steady', namespace: stack.namespace };
    const timeouts = { heartbeatMs: 3000 };
    const wish = { container, idempotencyKey: 'nightly', durability: 'remote', timeouts };

    const first = (await curl('/v1/checkpoint', wish)) as AgentOperation;
    await stack.killNodeWorker();
    await stack.startWorkers();
    // The server remembers the pollers of the dead worker: the new one may still be on its way.
    await until('the next agent', () => curl('/v1/health').then(Boolean, () => false), 60_000, 200);
    const again = (await curl('/v1/checkpoint', { ...wish, waitMs: 90_000 })) as AgentOperation;

    expect(first).toMatchObject({ kind: 'checkpoint', status: 'running', node: stack.node });
    expect(again).toMatchObject({ workflowId: first.workflowId, runId: first.runId, status: 'done' });
    const { checkpointId } = again.result as CheckpointResult;
    expect(await curl('/v1/checkpoints')).toMatchObject({
      checkpoints: [{ checkpointId, path: expect.stringContaining(checkpointId) as string, uploadPending: false }],
      problems: [],
    });
    const seen: object[] = [];
    for await (const state of watch(first.workflowId)) {
      seen.push(state);
    }
    expect(seen.at(-1)).toMatchObject({ status: 'done', checkpoint: { checkpointId, durability: 'remote' } });

    const restored = (await curl('/v1/restore', {
      checkpointId,
      container: { id: 'steady-2', namespace: stack.namespace },
      waitMs: 90_000,
    })) as AgentOperation;
    expect(restored).toMatchObject({ status: 'done', result: { how: 'restored' } satisfies Partial<RestoreResult> });
    await until('the count to go on', async () => (await count('steady-2')) > 1);
    await stack.removeContainer('steady-2');
  });

  it('that cannot be is told with its error, and the agent lives', async () => {
    const container = { id: 'nobody', namespace: stack.namespace };

    expect(await curl('/v1/checkpoint', { container, waitMs: 60_000 })).toMatchObject({
      status: 'failed',
      error: { type: 'ContainerNotFound', message: expect.stringContaining('nobody') as string },
    });
    expect(await curl('/v1/checkpoint', { container: 7 })).toMatchObject({ error: { type: 'InvalidInput' } });
    expect(await curl('/v1/health')).toMatchObject({ status: 'ok', node: stack.node });
  });
});

interface Pod {
  readonly namespace?: string;
  readonly uid?: string;
  readonly container?: string;
}

/** As containerd's CRI plug-in writes it. */
function cri({ namespace = 'shop', uid = 'uid-b', container = 'app' }: Pod): string[] {
  return Object.entries({
    'io.kubernetes.cri.container-type': 'container',
    'io.kubernetes.cri.container-name': container,
    'io.kubernetes.cri.sandbox-namespace': namespace,
    'io.kubernetes.cri.sandbox-name': 'web-1',
    'io.kubernetes.cri.sandbox-uid': uid,
  }).flatMap(([key, value]) => ['--annotation', `${key}=${value}`]);
}

describe('a container of a pod that asks for a checkpoint', () => {
  let checkpointId: string;
  let before: number;
  let made = 0;

  beforeAll(async () => {
    const labels = {
      'io.kubernetes.pod.namespace': 'shop',
      'io.kubernetes.pod.name': 'web-0',
      'io.kubernetes.container.name': 'app',
    };
    const flags = Object.entries(labels).flatMap(([key, value]) => ['--label', `${key}=${value}`]);
    await startCounter('pod-a', [...RUNTIME, ...flags]);
    await until('a count that no fresh start has', async () => (await count('pod-a')) > 40);
    before = await count('pod-a');
    ({ checkpointId } = await stack.checkpoint('pod-a', { durability: 'remote' }));
    stack.removeLocal(checkpointId);
  });

  /** A container that would say 0. */
  async function run(pod: Pod, ...flags: string[]): Promise<{ readonly id: string; readonly result: RunResult }> {
    made += 1;
    const id = `pod-b-${made}`;
    const { dir } = fromLane('containerd');
    const asked = ['--annotation', `kybernate.io/restore-from=${checkpointId}`, ...flags];
    const result = await openContainerd(dir, process.env).ctr(
      [
        '-n',
        stack.namespace,
        'run',
        '-d',
        '--null-io',
        ...RUNTIME,
        ...cri(pod),
        ...asked,
        BUSYBOX,
        id,
        'sh',
        '-c',
        FRESH,
      ],
      60_000,
    );
    return { id, result };
  }

  async function countOf({ id, result }: Awaited<ReturnType<typeof run>>): Promise<number> {
    expect(result.stderr).toBe('');
    // The file is empty for a moment each time it is written.
    let text = '';
    await until('a count', async () => (text = await stack.read(id, '/dev/shm/count').catch(() => '')) !== '');
    return Number(text);
  }

  it('is refused for a pod of another namespace or another container, before a byte is brought', async () => {
    const foreign = await run({ namespace: 'bank' });
    const other = await run({ container: 'sidecar' });

    expect(foreign.result.stderr).toMatch(
      /bank\/web-1\/app was not restored from .*: RestoreRefused: .*belongs to namespace shop.*KYBERNATE_RESTORE_GRANTS/,
    );
    expect(other.result.stderr).toContain('annotation kybernate.io/restore-from.sidecar');
    expect(stack.localCheckpoints().join()).not.toContain(checkpointId);
    for (const { id } of [foreign, other]) {
      await stack.removeContainer(id);
    }
  });

  it('gets it from the store by a workflow, and a later start of the same pod is none of it', async () => {
    const first = await run({});
    expect(await countOf(first)).toBeGreaterThanOrEqual(before);
    expect(await stack.client.describe(`prefetch:${checkpointId}:restore-on-${stack.node}`)).toMatchObject({
      status: 'COMPLETED',
    });
    await stack.removeContainer(first.id);

    const second = await run({});
    expect(await countOf(second)).toBe(0);
    await stack.removeContainer(second.id);

    const always = await run({}, '--annotation', 'kybernate.io/restore=every-start');
    expect(await countOf(always)).toBeGreaterThanOrEqual(before);
    await stack.removeContainer(always.id);

    const granted = await run({ namespace: 'lab', uid: 'uid-c' });
    expect(await countOf(granted)).toBeGreaterThanOrEqual(before);
    await stack.removeContainer(granted.id);
    expect(existsSync(join(stack.stateDir, 'pod-starts/uid-c.app'))).toBe(true);

    const pod = { uid: 'uid-c', container: 'app' };
    const asked = await stack.client.inspectRestore({ node: stack.node, pod });
    expect(await asked.result()).toMatchObject({ outcome: { how: 'restored', restoreFrom: checkpointId } });
    const nobody = await stack.client.inspectRestore({ node: stack.node, pod: { ...pod, uid: 'nobody' } });
    expect(await nobody.result()).toEqual({ node: stack.node });
  });

  it('is told which volume the new pod lacks', async () => {
    const volume = join(stack.dir, 'volume');
    mkdirSync(volume);
    const labels = ['--label', 'io.kubernetes.pod.namespace=shop', '--label', 'io.kubernetes.pod.name=web-2'];
    const mount = ['--mount', `type=bind,src=${volume},dst=/data,options=rbind:rw`];
    await startCounter('pod-v', [...RUNTIME, ...labels, '--label', 'io.kubernetes.container.name=app', ...mount]);
    const taken = await stack.checkpoint('pod-v');

    const lacking = await run({ uid: 'uid-v' }, '--annotation', `kybernate.io/restore-from=${taken.checkpointId}`);

    expect(lacking.result.stderr).toContain('mount /data: the source had a volume there, and this pod has none');
    await stack.removeContainer(lacking.id);
  });

  /** A container of the pod from which the others come. */
  async function startSource(id: string, uid: string, script: string, flags: readonly string[]): Promise<void> {
    const labels = { 'pod.namespace': 'shop', 'pod.name': id, 'pod.uid': uid, 'container.name': 'app' };
    const labelled = Object.entries(labels).flatMap(([key, value]) => ['--label', `io.kubernetes.${key}=${value}`]);
    await stack.runContainer(id, BUSYBOX, ['sh', '-c', script], [...RUNTIME, ...labelled, ...cri({ uid }), ...flags]);
    await until('the first count', async () => (await count(id).catch(() => 0)) > 0);
  }

  const restoreFrom = (id: string): string[] => ['--annotation', `kybernate.io/restore-from=${id}`];

  describe('with volumes of its pod', () => {
    /** An emptyDir, as kubelet makes it. */
    function emptyDirOf(uid: string): string[] {
      const source = join(kubeletDir, `pods/${uid}/volumes/kubernetes.io~empty-dir/cache`);
      mkdirSync(source, { recursive: true });
      return ['--mount', `type=bind,src=${source},dst=/cache,options=rbind:rw`];
    }
    const LIST = '--annotation=kybernate.io/capture-volumes';
    const HOLD = `exec 9>/cache/open; echo kept >/cache/file; mkdir /cache/below; cd /cache/below; ${COUNT}`;

    it('finds the content of those that were listed, and is refused where it has no place for it', async () => {
      await startSource('pod-e', 'uid-e', HOLD, [...emptyDirOf('uid-e'), `${LIST}=cache,/dev/shm`]);
      const counted = await count('pod-e');
      const taken = await stack.checkpoint('pod-e');

      const elsewhere = ['--mount', `type=bind,src=${stack.dir},dst=/cache,options=rbind`];
      const none = await run({ uid: 'uid-h' }, ...restoreFrom(taken.checkpointId), ...elsewhere);
      const whole = await run({ uid: 'uid-g' }, ...restoreFrom(taken.checkpointId), ...emptyDirOf('uid-g'));

      expect(none.result.stderr).toContain(
        'mount /cache: the checkpoint has the content of its volume cache, and this pod has no emptyDir there',
      );
      expect(await countOf(whole)).toBeGreaterThanOrEqual(counted);
      expect(await stack.read(whole.id, '/cache/file')).toBe('kept\n');
      expect(existsSync(join(kubeletDir, 'pods/uid-g/volumes/kubernetes.io~empty-dir/cache/below'))).toBe(true);
      for (const { id } of [none, whole]) {
        await stack.removeContainer(id);
      }
    });

    it('is not checkpointed while it holds files in one that is not listed, each of which is named', async () => {
      await startSource('pod-f', 'uid-f', HOLD, [...emptyDirOf('uid-f'), `${LIST}=-`]);

      const refused = stack.checkpoint('pod-f');

      await expect(refused).rejects.toMatchObject({
        type: 'Incompatible',
        message: expect.stringMatching(
          /\(sh\) has \/cache\/open, \/cache\/below open, in the volume cache \(emptyDir\)/,
        ) as string,
      });
      const before = await count('pod-f');
      await until('the count to go on', async () => (await count('pod-f')) > before);
    });
  });

  describe('in a pid namespace that its pod shares', () => {
    /** What a pod's pause is: its namespace is joined by the others. @returns flags that join it */
    async function startPause(id: string, script: string): Promise<string[]> {
      await stack.runContainer(id, BUSYBOX, ['sh', '-c', script]);
      const pid = new RegExp(`^${id}\\s+(\\d+)`, 'm').exec(await stack.ctr('tasks', 'ls'))?.[1];
      return ['--with-ns', `pid:/proc/${pid}/ns/pid`];
    }

    it('is restored where its pids are free, and refused, with who has them, where they are taken', async () => {
      // runc's threads take numbers, too, as many as it has time for: what it starts has any of the first hundred.
      const many = 'i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo >/dev/shm/done; wait';
      await startSource('pod-p', 'uid-p', COUNT, await startPause('pause-p', 'sleep 1000'));
      const source = await stack.checkpoint('pod-p');
      const free = await startPause('pause-q', 'sleep 1000');
      const full = await startPause('pause-r', many);
      await until('its processes', () => stack.read('pause-r', '/dev/shm/done').then(Boolean, () => false));

      const refused = await run({ uid: 'uid-r' }, ...restoreFrom(source.checkpointId), ...full);
      const restored = await run({ uid: 'uid-q' }, ...restoreFrom(source.checkpointId), ...free);

      const { capture } = JSON.parse(readFileSync(join(source.localPath, 'metadata.json'), 'utf8')) as {
        capture: { ids: number[] };
      };
      const taken = /pid (\d+) is taken by sleep \(/.exec(refused.result.stderr)?.[1];
      expect(capture.ids, refused.result.stderr).toContain(Number(taken));
      expect(await countOf(restored)).toBeGreaterThan(0);
      for (const { id } of [refused, restored]) {
        await stack.removeContainer(id);
      }
    });
  });
});

import { expect, test } from 'vitest';
import type { Containerd, ContainerRecord, TaskRecord, TaskStatus } from '../native/containerd/containerd.ts';
import { inspectContainer, resolveContainer } from './inspect.ts';
import { resolveProcess } from './inspect-process.ts';
import type { NodeDeps } from './node-deps.ts';

const POD_LABELS = {
  'io.kubernetes.pod.namespace': 'shop',
  'io.kubernetes.pod.name': 'web-0',
  'io.kubernetes.container.name': 'app',
};

function record(id: string, labels: Record<string, string> = {}): ContainerRecord {
  return {
    id,
    labels,
    image: '',
    runtime: { name: 'io.containerd.runc.v2' },
    spec: '{}',
    snapshotter: '',
    snapshotKey: '',
    sandboxId: '',
  };
}

function task(id: string, status: TaskStatus): TaskRecord {
  return { id, pid: process.pid, status, stdin: '', stdout: '', stderr: '', terminal: false, exitStatus: 0 };
}

function deps(records: ContainerRecord[], tasks: TaskRecord[], asked: string[] = []): NodeDeps {
  const containerd: Partial<Containerd> = {
    getContainer: (_namespace, id) => Promise.resolve(records.find((candidate) => candidate.id === id)),
    getTask: (_namespace, id) => Promise.resolve(tasks.find((candidate) => candidate.id === id)),
    listContainers: (namespace, filters) => {
      asked.push(namespace, ...filters);
      return Promise.resolve(records);
    },
  };
  return { settings: { node: 'n1' }, containerd } as NodeDeps;
}

test('an id is looked up in the namespace that was given, or in default', async () => {
  const node = deps([record('c1')], []);

  expect(await resolveContainer(node, { id: 'c1' })).toEqual({ namespace: 'default', id: 'c1' });
  expect(await resolveContainer(node, { id: 'c1', namespace: 'k8s.io' })).toEqual({ namespace: 'k8s.io', id: 'c1' });
  await expect(resolveContainer(node, { id: 'c2' })).rejects.toMatchObject({ type: 'ContainerNotFound' });
});

test('a pod is found by its labels; its sandbox and its forerunners are not taken', async () => {
  const asked: string[] = [];
  const node = deps(
    [
      record('pause', { ...POD_LABELS, 'io.cri-containerd.kind': 'sandbox' }),
      record('old', POD_LABELS),
      record('new', POD_LABELS),
    ],
    [task('pause', 'running'), task('old', 'stopped'), task('new', 'running')],
    asked,
  );

  const found = await resolveContainer(node, { pod: { namespace: 'shop', name: 'web-0', container: 'app' } });

  expect(found).toEqual({ namespace: 'k8s.io', id: 'new' });
  expect(asked).toEqual([
    'k8s.io',
    'labels."io.kubernetes.pod.namespace"=="shop",labels."io.kubernetes.pod.name"=="web-0",labels."io.kubernetes.container.name"=="app"',
  ]);
});

test('a pod without a running container is not running, an unknown one is not found', async () => {
  const pod = { namespace: 'shop', name: 'web-0', container: 'app' };

  await expect(resolveContainer(deps([record('old', POD_LABELS)], []), { pod })).rejects.toMatchObject({
    type: 'ContainerNotRunning',
  });
  await expect(resolveContainer(deps([], []), { pod })).rejects.toMatchObject({ type: 'ContainerNotFound' });
});

test.each<[TaskStatus | 'none', RegExp]>([
  ['none', /has no task/],
  ['created', /created but not started/],
  ['stopped', /has ended/],
  ['paused', /somebody else has paused it/],
])('a container whose task is %s does not run, and the message says so', async (status, message) => {
  const node = deps([record('c1')], status === 'none' ? [] : [task('c1', status)]);

  const attempt = inspectContainer(node, { namespace: 'default', id: 'c1' });

  await expect(attempt).rejects.toMatchObject({ type: 'ContainerNotRunning' });
  await expect(attempt).rejects.toThrow(message);
});

test('a task whose process is gone does not run', async () => {
  const node = deps([record('c1')], [{ ...task('c1', 'running'), pid: 0x7fffffff }]);

  await expect(inspectContainer(node, { namespace: 'default', id: 'c1' })).rejects.toThrow(
    /process 2147483647 is gone/,
  );
});

test('process 1 is refused as init, whatever this process may read of it', () => {
  expect(() => resolveProcess({ pid: 1 })).toThrow(/^process 1 \(.*\) is the init of this machine or container/);
});

/* What a pod shares between its containers, on a real cluster: emptyDirs, its /dev/shm, and a pid namespace. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { BUSYBOX_IMAGE } from '../harness/images.ts';
import { runCli, runCliJson } from '../harness/run-cli.ts';
import type { Cluster } from './cluster.ts';
import { TEMPORAL_VARIABLES } from './install.ts';
import { type PodManifest, Pods } from './pods.ts';
import { theCluster } from './provided.ts';

/** Counts in a file that it keeps open, in a directory of the volume, and in the memory of the pod. */
const COUNT = `
mkdir -p /cache/below; cd /cache/below; exec 9>>/cache/log
i=0; while :; do i=$((i+1)); echo $i >&9; echo $i >/dev/shm/count; sleep 0.1; done`;

let cluster: Cluster;
let pods: Pods;

/* Pids are given one after the other: of the container after it one is past these, or among them. */
const USE_PIDS = 'i=0; while [ $i -lt 60 ]; do /bin/true; i=$((i+1)); done; exec sleep 3600';
const TAKE_PIDS = 'i=0; while [ $i -lt 200 ]; do sleep 3600 & i=$((i+1)); done; wait';

interface Wishes {
  readonly annotations?: Readonly<Record<string, string>>;
  /** in place of the counter */
  readonly script?: string;
  readonly volume?: object;
  /** of a container that is started before the counter's; there is none otherwise */
  readonly first?: string;
}

/** Beside the counter a container that has the volume, too, as an injected one might. */
function counter(name: string, wishes: Wishes): PodManifest {
  const { annotations = {}, script = COUNT, volume = { emptyDir: {} }, first } = wishes;
  const container = { image: BUSYBOX_IMAGE, imagePullPolicy: 'Never' };
  const volumeMounts = [{ name: 'cache', mountPath: '/cache' }];
  const taker = { name: 'first', ...container, command: ['sh', '-c', first] };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, annotations },
    spec: {
      runtimeClassName: 'kybernate',
      shareProcessNamespace: true,
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 0,
      volumes: [{ name: 'cache', ...volume }],
      containers: [
        ...(first === undefined ? [] : [taker]),
        { name: 'app', ...container, command: ['sh', '-c', script], volumeMounts },
        { name: 'beside', ...container, command: ['sleep', '3600'], volumeMounts },
      ],
    },
  };
}

const checkpointFlags = (pod: string): string[] => [
  'checkpoint',
  '--node',
  cluster.node,
  '--pod',
  `default/${pod}/app`,
];

beforeAll(() => {
  cluster = theCluster();
  pods = new Pods(cluster);
});

afterAll(() => pods.removeAll());

describe('a pod whose containers share an emptyDir, /dev/shm and pids', () => {
  it('comes back with the content of the volumes that it lists, its open file and its pids', async () => {
    const a = await pods.run(
      counter('shared-a', { annotations: { 'kybernate.io/capture-volumes': 'cache,/dev/shm' }, first: USE_PIDS }),
    );
    await pods.untilReady(a);
    await pods.exec(a, 'echo kept >/cache/file');
    const pid = await pods.exec(a, 'pgrep -f /cache/below | head -n 1');
    const { checkpointId } = await runCliJson<{ checkpointId: string }>(TEMPORAL_VARIABLES, ...checkpointFlags(a));
    const annotations = { 'kybernate.io/restore-from.app': checkpointId };

    const b = await pods.run(counter('shared-b', { annotations, script: 'echo cold >/cache/cold; sleep 3600' }));
    await pods.untilReady(b);

    expect(await pods.exec(b, 'cat /cache/file; ls /cache')).toBe('kept\nbelow\nfile\nlog');
    expect(await pods.exec(b, 'head -n 1 /cache/log')).toBe('1');
    expect(await pods.exec(b, 'pgrep -f /cache/below | head -n 1')).toBe(pid);
    const before = Number(await pods.exec(b, 'tail -n 1 /cache/log'));
    await pods.until(async () => Number(await pods.exec(b, 'cat /dev/shm/count')) > before, 20_000, 'higher count');
  });

  it('is refused, with who has it, where a pid of its own is taken in the next pod', async () => {
    const { checkpointId } = await runCliJson<{ checkpointId: string }>(
      TEMPORAL_VARIABLES,
      ...checkpointFlags('shared-a'),
    );
    const annotations = { 'kybernate.io/restore-from.app': checkpointId };

    const taken = await pods.run(counter('shared-taken', { annotations, first: TAKE_PIDS }));

    await pods.until(
      async () =>
        /pid \d+ is taken by sleep \(\d+ on the node\)/.test(await cluster.kubectl(['describe', 'pod', taken])),
      60_000,
      'reason in the events',
    );
  });

  it('is refused, with the reason, where the next pod has no emptyDir, and where it does not list what it holds', async () => {
    const { checkpointId } = await runCliJson<{ checkpointId: string }>(
      TEMPORAL_VARIABLES,
      ...checkpointFlags('shared-a'),
    );
    const annotations = { 'kybernate.io/restore-from.app': checkpointId };
    const volume = { configMap: { name: 'kube-root-ca.crt' } };
    const c = await pods.run(counter('shared-c', { annotations, volume }));
    const d = await pods.run(counter('shared-d', {}));
    await pods.untilReady(d);

    const refused = await runCli(TEMPORAL_VARIABLES, ...checkpointFlags(d));

    expect(refused.stderr).toMatch(/\/cache\/log.* open, in the volume cache \(emptyDir\)/);
    await pods.until(
      async () => (await cluster.kubectl(['describe', 'pod', c])).includes('this pod has no emptyDir there'),
      60_000,
      'reason in the events',
    );
  });
});

/* Objects that are wrong, at a real API server: what its schemas let through the operator refuses, with a condition that says why. */
import { beforeAll, expect, it } from 'vitest';

import { malformed, shown } from '../harness/malformed.ts';
import { CHECKPOINT_SPEC, RESTORE_SPEC } from '../harness/object-shapes.ts';
import { seeded } from '../harness/random.ts';
import { times } from '../harness/soak.ts';
import type { Cluster } from './cluster.ts';
import { NAMESPACE } from './install.ts';
import { Pods } from './pods.ts';
import { theCluster } from './provided.ts';

const OBJECTS = Math.max(40, times(200));
const KINDS = [
  { kind: 'Checkpoint', shape: CHECKPOINT_SPEC },
  { kind: 'Restore', shape: RESTORE_SPEC },
] as const;

interface Told {
  readonly metadata: { readonly name: string };
  readonly status?: {
    readonly phase?: string;
    readonly conditions?: ReadonlyArray<{ readonly reason: string; readonly message: string }>;
  };
}

let cluster: Cluster;

beforeAll(() => {
  cluster = theCluster();
});

/** The API server takes a null for nothing, where nothing is right. */
function manifests(): Map<string, string> {
  const random = seeded(8);
  const made = new Map<string, string>();
  while (made.size < OBJECTS) {
    const { kind, shape } = KINDS[made.size % 2 === 0 ? 0 : 1];
    const { body } = malformed(shape, random);
    const text = JSON.stringify(body);
    if (!text.includes('null')) {
      const name = `odd-${made.size}`;
      const head = { apiVersion: 'kybernate.io/v1alpha1', kind, metadata: { name } };
      made.set(name, `${JSON.stringify(head).slice(0, -1)},"spec":${text}}`);
    }
  }
  return made;
}

async function objects(): Promise<Told[]> {
  const text = await cluster.kubectl(['get', 'checkpoints,restores', '-o', 'json']);
  const { items } = JSON.parse(text) as { items: Told[] };
  return items.filter(({ metadata }) => metadata.name.startsWith('odd-'));
}

async function operatorRestarts(): Promise<string> {
  const path = '{.items[*].status.containerStatuses[*].restartCount}';
  const selector = 'app.kubernetes.io/component=operator';
  return cluster.kubectl(['-n', NAMESPACE, 'get', 'pods', '-l', selector, '-o', `jsonpath=${path}`]);
}

it(`${OBJECTS} malformed objects are refused by the API server or by the operator, each with a reason`, async () => {
  const restarts = await operatorRestarts();
  const made = manifests();

  // Every document is tried, and those that are refused are told together.
  const said = await cluster.kubectl(['create', '-f', '-'], [...made.values()].join('\n')).catch(String);

  const accepted = await objects();
  const refused = said.match(/Error from server \(|The (?:Checkpoint|Restore) "odd-\d+" is invalid/g) ?? [];
  expect(refused.length, said.slice(0, 4000)).toBe(OBJECTS - accepted.length);
  expect(refused.length).toBeGreaterThan(OBJECTS / 4);
  const pods = new Pods(cluster);
  await pods.until(async () => (await objects()).every(({ status }) => status?.phase === 'Failed'), 30_000, 'refusals');
  for (const { metadata, status } of await objects()) {
    const [condition] = status?.conditions ?? [];
    expect(condition?.reason, `${metadata.name} ${shown(made.get(metadata.name))}`).toBe('InvalidInput');
    expect(condition?.message.length).toBeGreaterThan(5);
  }
  expect(await operatorRestarts()).toBe(restarts);
  await cluster.kubectl(['delete', 'checkpoints,restores', '--all', '--timeout=60s']);
});

it('a Restore whose pod the API server does not take fails with its words', async () => {
  const spec = { checkpointId: 'none', template: { spec: { containers: [{ name: 'app' }] } } };
  const restore = { apiVersion: 'kybernate.io/v1alpha1', kind: 'Restore', metadata: { name: 'odd-pod' }, spec };
  await cluster.kubectl(['create', '-f', '-'], JSON.stringify(restore));

  await new Pods(cluster).until(async () => (await objects()).some(({ status }) => status?.phase === 'Failed'), 30_000);

  const [{ status } = { status: undefined }] = await objects();
  expect(status?.conditions?.[0]).toMatchObject({
    reason: 'InvalidInput',
    message: expect.stringContaining('spec.containers[0].image'),
  });
  await cluster.kubectl(['delete', 'restore', 'odd-pod', '--timeout=60s']);
});

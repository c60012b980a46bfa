/* The chart: what it renders, what the API server says to it, and that a node is as before when it is gone. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';

import { parseRestoreGrants } from '../../core/oci/restore-grants.ts';
import type { Cluster } from './cluster.ts';
import { CHART, helm, NAMESPACE, RELEASE, writeValues } from './install.ts';
import { theCluster } from './provided.ts';

interface Rendered {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly annotations?: Readonly<Record<string, string>> };
  readonly spec?: {
    readonly template?: { readonly spec: PodSpec };
    readonly scheduling?: { readonly tolerations?: readonly unknown[] };
  };
  readonly rules?: readonly { readonly verbs: readonly string[]; readonly resourceNames?: readonly string[] }[];
}

interface PodSpec {
  readonly hostPID?: boolean;
  readonly automountServiceAccountToken?: boolean;
  readonly volumes?: readonly { readonly name: string }[];
  readonly containers: readonly {
    readonly name: string;
    readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
    readonly securityContext: {
      readonly privileged?: boolean;
      readonly capabilities?: { readonly drop?: readonly string[] };
    };
    readonly env?: readonly { readonly name: string; readonly value?: string; readonly valueFrom?: object }[];
  }[];
}

const MUST = {
  image: { repository: 'r.example/kybernate' },
  temporal: { address: 't:7233' },
  store: { url: 's3://b' },
};

let cluster: Cluster;

beforeAll(() => {
  cluster = theCluster();
});

async function render(values: Record<string, unknown>, ...flags: string[]): Promise<Rendered[]> {
  const file = writeValues(cluster, values);
  const text = await helm(cluster, ['template', 'x', CHART, '--namespace', 'n', '--values', file, ...flags]);
  return parseAllDocuments(text)
    .map((document) => document.toJS() as Rendered | null)
    .filter((object) => object !== null);
}

function find(objects: readonly Rendered[], kind: string, end = ''): Rendered {
  const found = objects.find((object) => object.kind === kind && object.metadata.name.endsWith(end));
  if (found === undefined) {
    throw new Error(`no ${kind} …${end} is rendered`);
  }
  return found;
}

function podOf(object: Rendered): PodSpec {
  if (object.spec?.template === undefined) {
    throw new Error(`${object.metadata.name} has no pods`);
  }
  return object.spec.template.spec;
}

/** Of its first container, by name. */
function envOf(object: Rendered): Record<string, unknown> {
  const [first] = podOf(object).containers;
  return Object.fromEntries((first?.env ?? []).map(({ name, value, valueFrom }) => [name, value ?? valueFrom]));
}

describe('the chart', () => {
  it('has nothing that helm lint warns of', async () => {
    const answer = await helm(cluster, ['lint', '--strict', CHART, '--values', writeValues(cluster, MUST)]);

    expect(answer).toContain('0 chart(s) failed');
  });

  it.each([
    ['image.repository', { ...MUST, image: {} }],
    ['temporal.address', { ...MUST, temporal: {} }],
    ['store.url', { ...MUST, store: {} }],
    ['pattern', { ...MUST, store: { url: 'https://b' } }],
    ['not allowed', { ...MUST, temporal: { adress: 't:1' } }],
    ['pattern', { ...MUST, restore: { grants: [{ to: 'a=b', from: 'c' }] } }],
    ['from', { ...MUST, restore: { grants: [{ to: 'a' }] } }],
    ['mode', { ...MUST, signing: { mode: 'sometimes' } }],
    ['endpoint', { ...MUST, tracing: { endpoint: 'collector:4318' } }],
  ])('says what is missing or wrong: %s', async (what, values) => {
    await expect(render(values)).rejects.toThrow(what);
  });

  it('keeps the keys of the store from the privileged side, and privileges from the side that has them', async () => {
    const store = { url: 's3://b', s3: { existingSecret: 'keys' } };
    const objects = await render({ ...MUST, store });
    const [node] = podOf(find(objects, 'DaemonSet', '-node')).containers;
    const sidecar = podOf(find(objects, 'DaemonSet', '-sidecar'));

    const named = (node?.env ?? []).map(({ name }) => name);
    expect(named.filter((name) => /^AWS_|KYBERNATE_STORE|KYBERNATE_S3/.test(name))).toEqual([]);
    expect(node?.securityContext.privileged).toBe(true);
    expect(sidecar.hostPID).toBeUndefined();
    expect(sidecar.containers[0]?.securityContext).toMatchObject({
      privileged: false,
      capabilities: { drop: ['ALL'] },
    });
    expect(sidecar.containers[0]?.env?.map(({ name }) => name)).toContain('AWS_SECRET_ACCESS_KEY');
  });

  it('gives no account a role but the operator, and the one that waits for the uninstallation', async () => {
    const objects = await render(MUST);

    const clusterRoles = objects.filter(({ kind }) => kind === 'ClusterRole');
    expect(clusterRoles.map(({ metadata }) => metadata.name)).toEqual(['x-kybernate-operator']);
    expect(JSON.stringify(clusterRoles)).not.toMatch(/secrets|"\*"/);
    const roles = objects.filter(({ kind, metadata }) => kind === 'Role' && !metadata.name.endsWith('-operator'));
    expect(roles.map(({ rules }) => rules?.map(({ verbs, resourceNames }) => [verbs, resourceNames]))).toEqual([
      [[['get'], ['x-kybernate-uninstall']]],
    ]);
    const bound = await render({ ...MUST, operator: { watchNamespace: 'ml' } });
    expect(bound.filter(({ kind }) => kind === 'ClusterRoleBinding')).toEqual([]);
    expect(find(bound, 'RoleBinding', '-objects').metadata).toMatchObject({ namespace: 'ml' });
    for (const name of ['-node', '-sidecar', '-control']) {
      const kind = name === '-control' ? 'Deployment' : 'DaemonSet';
      expect(podOf(find(objects, kind, name)).automountServiceAccountToken).toBe(false);
    }
  });

  it('takes certificates and keys of Temporal from secrets that exist', async () => {
    const temporal = {
      address: 't.example:7233',
      tls: { existingSecret: 'tls' },
      apiKey: { existingSecret: 'cloud', key: 'token' },
    };
    const objects = await render({ ...MUST, temporal });

    for (const object of ['-node', '-sidecar'].map((name) => find(objects, 'DaemonSet', name))) {
      const env = new Map(
        podOf(object).containers[0]?.env?.map(({ name, value, valueFrom }) => [name, value ?? valueFrom]),
      );
      expect(env.get('TEMPORAL_TLS')).toBe('true');
      expect(env.get('TEMPORAL_TLS_CLIENT_KEY_DATA')).toEqual({ secretKeyRef: { name: 'tls', key: 'tls.key' } });
      expect(env.get('TEMPORAL_API_KEY')).toEqual({ secretKeyRef: { name: 'cloud', key: 'token' } });
    }
  });

  it('sends traces of every process to one collector, with headers that a secret has, where it is named', async () => {
    const parts = [
      ['DaemonSet', '-node'],
      ['DaemonSet', '-sidecar'],
      ['Deployment', '-control'],
      ['Deployment', '-operator'],
    ] as const;
    const headers = { existingSecret: 'collector', key: 'auth' };
    const objects = await render({ ...MUST, tracing: { endpoint: 'http://collector.o11y.svc:4318', headers } });
    const plain = await render(MUST);

    for (const [kind, name] of parts) {
      expect(envOf(find(objects, kind, name))).toMatchObject({
        OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector.o11y.svc:4318',
        OTEL_EXPORTER_OTLP_HEADERS: { secretKeyRef: { name: 'collector', key: 'auth' } },
      });
      expect(Object.keys(envOf(find(plain, kind, name))).filter((variable) => variable.startsWith('OTEL'))).toEqual([]);
    }
  });

  const keys = { existingSecret: 'keys' };
  it.each([
    ['those of AWS', { store: { url: 's3://b', s3: keys } }, [7233, 443]],
    ['and of who gives keys where no secret does', {}, [7233, 443, 80]],
    ['none of a store that is a directory', { store: { url: 'file:///srv/checkpoints' } }, [7233]],
    ['of the embedded Temporal server', { temporal: { embedded: { enabled: true } } }, [7233, 443, 80]],
    [
      'those of the addresses in the values',
      {
        temporal: { address: 't.example:443' },
        store: { url: 's3://b', s3: { ...keys, endpoint: 'http://minio.storage.svc:9000' } },
        tracing: { endpoint: 'http://[fd00::1]:4318/otlp' },
      },
      [443, 9000, 4318],
    ],
    [
      'those of pods whose Service has another one',
      {
        store: { url: 's3://b', s3: { ...keys, endpoint: 'http://minio.storage.svc' } },
        networkPolicy: { egress: { temporalPorts: [7234], storePorts: [9000], tracingPorts: [4319] } },
      },
      [7233, 80, 7234, 9000, 4319],
    ],
  ])('lets sidecar and control reach the ports that they need and no others: %s', async (_what, values, ports) => {
    const objects = await render({ ...MUST, ...values });

    const dns = [
      { protocol: 'UDP', port: 53 },
      { protocol: 'TCP', port: 53 },
    ];
    for (const name of ['-sidecar', '-control']) {
      expect(find(objects, 'NetworkPolicy', name).spec).toMatchObject({
        egress: [{ ports: [...dns, ...ports.map((port) => ({ protocol: 'TCP', port }))] }],
      });
    }
  });

  it('gives keys that sign and keys that are trusted to the nodes alone, from what exists', async () => {
    const signing = { existingSecret: 'signer', key: 'ed25519', trustedConfigMap: 'others', mode: 'required' };
    const objects = await render({ ...MUST, signing });
    const node = podOf(find(objects, 'DaemonSet', '-node'));

    expect(envOf(find(objects, 'DaemonSet', '-node'))).toMatchObject({
      KYBERNATE_SIGNING_KEY: '/run/kybernate/keys/signing/signing.pem',
      KYBERNATE_TRUSTED_KEYS: '/run/kybernate/keys/trusted',
      KYBERNATE_SIGNATURES: 'required',
    });
    expect(node.volumes).toEqual(
      expect.arrayContaining([
        expect.objectContaining({
          name: 'signing',
          secret: expect.objectContaining({ secretName: 'signer', items: [{ key: 'ed25519', path: 'signing.pem' }] }),
        }),
        { name: 'trusted', configMap: { name: 'others' } },
      ]),
    );
    expect(node.containers[0]?.volumeMounts?.map(({ mountPath }) => mountPath)).toEqual([
      '/kybernate-keys/signing',
      '/kybernate-keys/trusted',
    ]);
    expect(JSON.stringify(find(objects, 'DaemonSet', '-sidecar'))).not.toContain('signer');
  });

  it('tells the nodes whose checkpoints may be restored where', async () => {
    const grants = [
      { to: 'staging', from: 'production' },
      { to: '*', from: 'golden' },
      { to: 'lab', from: '-' },
    ];
    const objects = await render({ ...MUST, restore: { grants } });

    const { KYBERNATE_RESTORE_GRANTS: text } = envOf(find(objects, 'DaemonSet', '-node'));
    expect(parseRestoreGrants(String(text))).toEqual(grants);
  });

  it('has a PodMonitor, alert rules and a dashboard where they are wanted', async () => {
    const wanted = { enabled: true, labels: { release: 'prometheus' } };
    const objects = await render({
      ...MUST,
      metrics: { enabled: true, podMonitor: wanted, alerts: wanted, dashboard: { enabled: true } },
    });

    for (const kind of ['PodMonitor', 'PrometheusRule']) {
      expect(find(objects, kind).metadata).toMatchObject({ labels: { release: 'prometheus' } });
    }
    expect(find(objects, 'PrometheusRule')).toMatchObject({ spec: { groups: expect.any(Array) } });
    expect(find(objects, 'ConfigMap', '-dashboard').metadata).toMatchObject({ labels: { grafana_dashboard: '1' } });
  });

  it('lets pods of kybernate-gpu onto GPU nodes', async () => {
    const objects = await render(MUST);

    const gpu = objects.find(({ kind, metadata }) => kind === 'RuntimeClass' && metadata.name === 'kybernate-gpu');
    expect(gpu?.spec ?? gpu).toMatchObject({ scheduling: { tolerations: [{ key: 'nvidia.com/gpu' }] } });
  });

  it('is accepted by the API server with everything that can be switched on', async () => {
    const file = writeValues(cluster, {
      ...MUST,
      temporal: { embedded: { enabled: true } },
      metrics: { enabled: true, dashboard: { enabled: true } },
      store: { url: 'file:///srv/checkpoints' },
    });
    const flags = ['--namespace', 'default', '--values', file, '--no-hooks'];
    const text = await helm(cluster, ['template', 'other', CHART, ...flags]);
    // The classes are there: they belong to the release of the cluster.
    const others = text
      .split(/^---$/m)
      .filter((part) => !part.includes('kind: RuntimeClass'))
      .join('\n---\n');

    const answer = await cluster.kubectl(['apply', '--dry-run=server', '-f', '-'], others);

    expect(answer).toContain('daemonset.apps/other-kybernate-node created (server dry run)');
    expect(answer).toContain('networkpolicy.networking.k8s.io/other-kybernate-sidecar created (server dry run)');
  });
});

describe('the release', () => {
  it('installs once: a second upgrade restarts no containerd', async () => {
    const before = readFileSync(join(cluster.paths.dir, 'containerd.pid'), 'utf8');
    const flags = ['--namespace', NAMESPACE, '--values', writeValues(cluster), '--wait', '--timeout', '240s'];

    await helm(cluster, ['upgrade', RELEASE, CHART, ...flags, '--set', 'logLevel=debug']);

    expect(readFileSync(join(cluster.paths.dir, 'containerd.pid'), 'utf8')).toBe(before);
  });
});

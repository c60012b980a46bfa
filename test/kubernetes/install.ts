/* The chart on the cluster, with a Temporal server and an S3 server beside it, as a user has them. */
import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { serverArgs } from '../../cli/dev/temporal.ts';
import { isAlive, logTail, startDaemon } from '../../cli/dev/process.ts';
import { answers, waitFor } from '../../cli/dev/wait.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { ROOT } from '../../tools/check-steps.ts';
import { IMAGE_NAME, kybernateImage } from '../../tools/image.ts';
import { bundledImage } from '../harness/images.ts';
import { ADDRESSES, API_PORT } from './cluster-config.ts';
import type { Cluster } from './cluster.ts';

export const CHART = join(ROOT, 'helm/kybernate');
export const RELEASE = 'kybernate';
export const NAMESPACE = 'kybernate';
const TEMPORAL_NAMESPACE = 'kybernate';
const PORTS = { temporal: 7233, http: 7243, metrics: 7244, s3: 7070 } as const;
const KEYS = { accessKeyId: 'e2e', secretAccessKey: 'e2e-secret-key' } as const;
const BUCKET = 'checkpoints';

/** For the CLI and for clients in the network of the cluster. */
export const TEMPORAL_VARIABLES = {
  TEMPORAL_ADDRESS: `${ADDRESSES.node}:${PORTS.temporal}`,
  TEMPORAL_NAMESPACE,
} as const;

/** Of the node, as the chart is told. */
export function hostPaths({ paths }: Cluster) {
  return {
    installDir: join(paths.dir, 'kybernate'),
    stateDir: join(paths.dir, 'checkpoints'),
    runDir: join(paths.dir, 'run'),
  };
}

/** Below it the node restores from a path. */
export function imagesDir({ paths }: Cluster): string {
  return join(paths.dir, 'images');
}

async function startTemporalServer({ paths }: Cluster): Promise<void> {
  const { temporal: port, http, metrics } = PORTS;
  const args = serverArgs(paths.dir, 'unused', { port, http, metrics });
  const record = await startDaemon(paths.dir, {
    name: 'temporal',
    file: requireProgram('temporal', process.env),
    // Pods reach it by the address of the node.
    args: args.map((arg) => (arg === '127.0.0.1' ? '0.0.0.0' : arg)),
    env: { PATH: process.env['PATH'], HOME: paths.dir },
  });
  const url = `http://${ADDRESSES.node}:${http}/api/v1/namespaces/unused/workflows`;
  await waitFor(
    'answer from Temporal',
    60_000,
    () => (isAlive(record) ? answers(url) : Promise.reject(new Error(logTail(record.logFile)))),
    () => logTail(record.logFile),
  );
}

async function startObjectStore({ paths }: Cluster): Promise<void> {
  const root = join(paths.dir, 's3');
  mkdirSync(join(root, BUCKET), { recursive: true });
  await startDaemon(paths.dir, {
    name: 's3',
    file: requireProgram('versitygw', process.env),
    args: ['--port', `${ADDRESSES.node}:${PORTS.s3}`, '--quiet', 'posix', root],
    env: {
      PATH: process.env['PATH'],
      HOME: paths.dir,
      ROOT_ACCESS_KEY: KEYS.accessKeyId,
      ROOT_SECRET_KEY: KEYS.secretAccessKey,
    },
  });
}

/** What a user would write into values.yaml. @param nodeEnv more variables of the node worker */
export function chartValues(cluster: Cluster, nodeEnv: Readonly<Record<string, string>> = {}): Record<string, unknown> {
  const [repository, tag] = IMAGE_NAME.split(':');
  return {
    image: { repository, tag, pullPolicy: 'Never' },
    temporal: { address: TEMPORAL_VARIABLES.TEMPORAL_ADDRESS, namespace: TEMPORAL_NAMESPACE },
    store: {
      url: `s3://${BUCKET}`,
      s3: { endpoint: `http://${ADDRESSES.node}:${PORTS.s3}`, existingSecret: 's3-keys' },
    },
    host: {
      ...hostPaths(cluster),
      runc: requireProgram('runc', process.env),
      pid: cluster.hostPid(),
      kubeletDir: cluster.paths.kubeletDir,
      containerd: {
        config: cluster.paths.containerdConfig,
        address: cluster.paths.containerdSocket,
        restartCommand: cluster.restartCommand,
      },
    },
    signing: { existingSecret: 'signing' },
    restore: { grants: [{ to: 'lab', from: 'default' }] },
    control: { replicas: 1, resources: {} },
    node: {
      resources: {},
      extraEnv: Object.entries({ KYBERNATE_RESTORE_ROOTS: imagesDir(cluster), ...nodeEnv }).map(([name, value]) => ({
        name,
        value,
      })),
    },
    operator: {
      replicas: 2,
      resources: {},
      // Nobody forwards the cluster's service addresses here.
      extraEnv: [
        { name: 'KUBERNETES_SERVICE_HOST', value: ADDRESSES.node },
        { name: 'KUBERNETES_SERVICE_PORT', value: String(API_PORT) },
      ],
    },
    sidecar: { resources: {} },
  };
}

/** @throws with what helm says, and what the pods of the release say */
export async function helm(cluster: Cluster, args: readonly string[]): Promise<string> {
  const { paths } = cluster;
  const result = await runExeca(requireProgram('helm', process.env), args, {
    env: { HOME: paths.dir, KUBECONFIG: paths.kubeconfig, PATH: cluster.containerd.path },
    timeoutMs: 400_000,
    maxOutputBytes: 4 * 1024 * 1024,
  });
  if (result.exitCode !== 0) {
    throw new Error(`helm ${args.join(' ')}: ${result.startError ?? result.stderr}`);
  }
  return result.stdout;
}

export function writeValues(cluster: Cluster, values: Record<string, unknown> = chartValues(cluster)): string {
  const file = join(cluster.paths.dir, 'values.json');
  writeFileSync(file, JSON.stringify(values), { mode: 0o600 });
  return file;
}

/** What somebody looks at when an installation does not come to its end. */
export async function explain(cluster: Cluster): Promise<string> {
  const ask = (...args: string[]): Promise<string> => cluster.kubectl(['-n', NAMESPACE, ...args]).catch(String);
  const logs = ['node', 'sidecar', 'control', 'operator'].map((name) =>
    ask('logs', '-l', `app.kubernetes.io/component=${name}`, '--all-containers', '--tail=15', '--prefix'),
  );
  return [await ask('get', 'pods', '-o', 'wide'), await ask('describe', 'pods'), ...(await Promise.all(logs))].join(
    '\n',
  );
}

/** Imports the image, starts the servers and installs the chart; returns when every pod of it is ready. */
export async function installChart(cluster: Cluster, values = chartValues(cluster)): Promise<void> {
  const { containerd } = cluster;
  const [image] = await Promise.all([
    bundledImage('kybernate') ?? kybernateImage(),
    startTemporalServer(cluster),
    startObjectStore(cluster),
  ]);
  await containerd.ctrOk(['-n', 'k8s.io', 'images', 'import', '--local', image]);
  mkdirSync(hostPaths(cluster).runDir, { mode: 0o711 });
  mkdirSync(imagesDir(cluster), { mode: 0o700 });
  await cluster.kubectl(['create', 'namespace', NAMESPACE]);
  const secret = Object.entries(KEYS).map(([key, value]) => `--from-literal=${key}=${value}`);
  await cluster.kubectl(['-n', NAMESPACE, 'create', 'secret', 'generic', 's3-keys', ...secret]);
  const { privateKey } = generateKeyPairSync('ed25519');
  const pem = String(privateKey.export({ type: 'pkcs8', format: 'pem' }));
  await cluster.kubectl([
    '-n',
    NAMESPACE,
    'create',
    'secret',
    'generic',
    'signing',
    `--from-literal=signing.pem=${pem}`,
  ]);
  try {
    const flags = ['--namespace', NAMESPACE, '--values', writeValues(cluster, values), '--wait', '--timeout', '240s'];
    await helm(cluster, ['install', RELEASE, CHART, ...flags]);
  } catch (error) {
    throw new Error(`${String(error)}\n${await explain(cluster)}`, { cause: error });
  }
}

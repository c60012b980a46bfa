/*
 * A real Kubernetes cluster of one machine: etcd, the control plane, containerd with CRI and CNI, the kubelet. It takes
 * the network namespace of its process, which must be one of its own (`unshare --net`): addresses and ports are the same
 * in every cluster, and all of its interfaces go with the last process. Everything else lies below one directory.
 */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { type Containerd, openContainerd } from '../../cli/dev/containerd-client.ts';
import { endTasks, removeTraces, unmountBelow } from '../../cli/dev/containerd-traces.ts';
import type { ImageName } from '../../cli/dev/images.ts';
import {
  findDaemon,
  isAlive,
  logTail,
  readProcStat,
  startDaemon,
  stopDaemon,
  stopOwned,
} from '../../cli/dev/process.ts';
import { waitFor } from '../../cli/dev/wait.ts';
import { type ProgramName, requireProgram } from '../../cli/setup/programs.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { importTestImages } from '../harness/images.ts';
import {
  ADDRESSES,
  API_PORT,
  apiserverArgs,
  type ClusterPaths,
  cniConfigText,
  containerdConfigText,
  controllerManagerArgs,
  etcdArgs,
  kubeconfigText,
  kubeletArgs,
  kubeletConfigText,
  schedulerArgs,
} from './cluster-config.ts';

export const NODE = 'node-a';
const PREFIX = 'kyb-kube-';
const OWNER_FILE = 'owner.json';
const PAUSE_IMAGE = 'docker.io/kybernate/pause:1' satisfies ImageName;
const NAMESPACE = 'k8s.io';
const CGROUPS = '/sys/fs/cgroup';

export interface Cluster {
  readonly paths: ClusterPaths;
  readonly node: string;
  readonly token: string;
  readonly containerd: Containerd;
  /** Runs kubectl as admin and returns its stdout. @throws with its stderr */
  kubectl(args: readonly string[], input?: string): Promise<string>;
  /** A request to the kubelet itself, as the control plane makes it. */
  askKubelet(method: string, path: string): Promise<string>;
  restartKubelet(): Promise<void>;
  restartContainerd(): Promise<void>;
  /** What an administrator would write as `systemctl restart containerd`: a shell command. */
  readonly restartCommand: string;
  /** A process in the mount namespace of the node: what starts containerd again when it has ended. */
  hostPid(): number;
  /** Imports images of ours for pods. */
  importImages(names: readonly ImageName[]): Promise<void>;
  close(): Promise<void>;
}

/** @throws when the process shares its network with the rest of the machine, told by a way out of it */
async function requireOwnNetwork(): Promise<void> {
  const routes = await must('ip', ['route', 'show', 'default']);
  if (routes.trim() !== '' && !routes.includes('dev node0')) {
    throw new Error('a cluster needs a network namespace of its own: run this below `unshare --net`');
  }
}

async function must(file: string, args: readonly string[]): Promise<string> {
  const result = await runExeca(file, args, { timeoutMs: 60_000 });
  if (result.exitCode !== 0) {
    throw new Error(`${file} ${args.join(' ')}: ${result.startError ?? result.stderr}`);
  }
  return result.stdout;
}

/** A veth pair carries the node's address: kube-apiserver and kubelet want an interface with a default route. */
async function makeNetwork(): Promise<void> {
  const commands = [
    'link set lo up',
    'link add node0 type veth peer name node0p',
    'link set node0p up',
    `addr add ${ADDRESSES.node}/24 dev node0`,
    'link set node0 up',
    'route add default dev node0',
    // No kube-proxy: the one service address that every pod uses is the node's, and the server listens there.
    `addr add ${ADDRESSES.api}/32 dev lo`,
  ];
  const present = await must('ip', ['-brief', 'link']);
  for (const command of present.includes('node0@') ? [] : commands) {
    await must('ip', command.split(' '));
  }
}

function hierarchies(): string[] {
  const names = readdirSync(CGROUPS);
  return names.includes('cgroup.controllers') ? [CGROUPS] : names.map((name) => join(CGROUPS, name));
}

function makeCgroups(root: string): void {
  for (const hierarchy of hierarchies()) {
    try {
      mkdirSync(join(hierarchy, root), { recursive: true });
    } catch {
      // A file, or a hierarchy that takes no groups.
    }
  }
}

/** Groups are removed from the leaves on; a group with a process in it stays, for a person to see. */
function removeCgroups(root: string): void {
  const remove = (dir: string): void => {
    let names: string[] = [];
    try {
      names = readdirSync(dir, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
    } catch {
      return;
    }
    names.forEach((name) => remove(join(dir, name)));
    try {
      rmdirSync(dir);
    } catch {
      // EBUSY
    }
  };
  hierarchies().forEach((hierarchy) => remove(join(hierarchy, root)));
}

function mayLowerOomScore(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> 24n) & 1n) === 1n;
}

function writeFiles(paths: ClusterPaths, token: string): void {
  const { dir } = paths;
  for (const name of ['cni', 'certs', 'kubelet']) {
    mkdirSync(join(dir, name), { recursive: true });
  }
  const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
  writeFileSync(join(dir, 'sa.key'), key.export({ type: 'pkcs1', format: 'pem' }), { mode: 0o600 });
  writeFileSync(join(dir, 'tokens.csv'), `${token},admin,1,"system:masters"\n`, { mode: 0o600 });
  writeFileSync(paths.kubeconfig, kubeconfigText(token, `https://${ADDRESSES.node}:${API_PORT}`), { mode: 0o600 });
  const cniDirs = (['bridge', 'loopback', 'host-local'] as const).map((name) =>
    dirname(requireProgram(name, process.env)),
  );
  const config = containerdConfigText(paths, {
    cniDirs: [...new Set(cniDirs)],
    pauseImage: PAUSE_IMAGE,
    restrictOomScoreAdj: !mayLowerOomScore(),
  });
  mkdirSync(dirname(paths.containerdConfig), { recursive: true });
  writeFileSync(paths.containerdConfig, config);
  writeFileSync(join(dir, 'cni/10-pods.conflist'), cniConfigText(paths));
  writeFileSync(join(dir, 'resolv.conf'), 'nameserver 127.0.0.1\n');
  writeFileSync(join(dir, 'kubelet.json'), kubeletConfigText(paths));
  writeFileSync(
    join(dir, 'containerd-service'),
    // What a service manager does: whoever ends containerd gets a new one.
    `#!/bin/sh\nwhile [ ! -e '${dir}/stopping' ]; do\n  "$@" &\n  echo $! >'${dir}/containerd.pid'\n  wait $!\n  sleep 0.1\ndone\n`,
    { mode: 0o755 },
  );
}

/** Ends what killed runs left. A directory without an owner is being made right now, or is not ours. */
export async function sweepAbandoned(): Promise<void> {
  for (const name of readdirSync(tmpdir()).filter((entry) => entry.startsWith(PREFIX))) {
    const dir = join(tmpdir(), name);
    let owner: { pid: number; startTicks: string };
    try {
      owner = JSON.parse(readFileSync(join(dir, OWNER_FILE), 'utf8')) as typeof owner;
    } catch {
      continue;
    }
    if (!isAlive(owner)) {
      await openCluster(pathsOf(dir), '').close();
    }
  }
}

function pathsOf(dir: string): ClusterPaths {
  return {
    dir,
    kubeconfig: join(dir, 'kubeconfig'),
    containerdConfig: join(dir, 'etc/containerd/config.toml'),
    // Where `openContainerd` looks for it.
    containerdSocket: join(dir, 'containerd.sock'),
    kubeletDir: join(dir, 'kubelet'),
    cgroupRoot: `/${basename(dir)}`,
  };
}

/** Starts the cluster; a few seconds. Whatever was started is ended when it fails. */
export async function startCluster(): Promise<Cluster> {
  await requireOwnNetwork();
  await sweepAbandoned();
  await makeNetwork();
  const dir = mkdtempSync(join(tmpdir(), PREFIX));
  const startTicks = readProcStat(process.pid)?.startTicks ?? '';
  writeFileSync(join(dir, OWNER_FILE), JSON.stringify({ pid: process.pid, startTicks }));
  const paths = pathsOf(dir);
  const token = randomBytes(16).toString('hex');
  writeFiles(paths, token);
  makeCgroups(paths.cgroupRoot);
  const cluster = openCluster(paths, token);
  try {
    await startPrograms(cluster);
  } catch (error) {
    await cluster.close();
    throw error;
  }
  return cluster;
}

async function startPrograms(cluster: Cluster): Promise<void> {
  const { paths } = cluster;
  await Promise.all([
    startProgram(paths, 'etcd', etcdArgs(paths)),
    startProgram(paths, 'kube-apiserver', apiserverArgs(paths)),
    startContainerd(cluster),
  ]);
  await cluster.importImages([PAUSE_IMAGE]);
  await untilReady(paths, 'kube-apiserver', () => cluster.kubectl(['get', '--raw', '/readyz']));
  await startProgram(paths, 'kube-controller-manager', controllerManagerArgs(paths));
  await startProgram(paths, 'kube-scheduler', schedulerArgs(paths));
  await startProgram(paths, 'kubelet', kubeletArgs(paths, NODE));
  const wait = ['wait', '--for=condition=Ready', `node/${NODE}`, '--timeout=1s'];
  await untilReady(paths, 'kubelet', () => cluster.kubectl(wait));
  await untilReady(paths, 'kube-controller-manager', () => cluster.kubectl(['get', 'serviceaccount', 'default']));
}

async function startProgram(paths: ClusterPaths, name: ProgramName, args: readonly string[]): Promise<void> {
  await startDaemon(paths.dir, {
    name,
    file: requireProgram(name, process.env),
    args,
    env: { PATH: openContainerd(paths.dir, process.env).path, HOME: paths.dir },
  });
}

async function startContainerd({ paths, containerd }: Cluster): Promise<void> {
  const command = [requireProgram('containerd', process.env), '--config', paths.containerdConfig];
  await startDaemon(paths.dir, {
    name: 'containerd',
    file: join(paths.dir, 'containerd-service'),
    args: command,
    env: { PATH: containerd.path, HOME: paths.dir },
  });
  await untilReady(paths, 'containerd', () => containerd.ctrOk(['version'], 2000));
}

/** Polls until the question is answered; a program that has ended is an error at once. */
async function untilReady(paths: ClusterPaths, name: string, ask: () => Promise<unknown>): Promise<void> {
  await waitFor(
    `answer that shows ${name} at work`,
    90_000,
    async () => {
      const record = findDaemon(paths.dir, name);
      if (record === undefined || !isAlive(record)) {
        throw new Error(`${name} ended:\n${logTail(join(paths.dir, 'logs', `${name}.log`), 30)}`);
      }
      try {
        await ask();
        return true;
      } catch {
        // Not yet.
        return false;
      }
    },
    () => `\n${logTail(join(paths.dir, 'logs', `${name}.log`))}`,
  );
}

/** The client side of a running cluster, from another process too. */
export function openCluster(paths: ClusterPaths, token: string): Cluster {
  const containerd = openContainerd(paths.dir, process.env);
  const cluster: Cluster = {
    paths,
    node: NODE,
    token,
    containerd,
    async kubectl(args, input) {
      const result = await runExeca(
        requireProgram('kubectl', process.env),
        ['--kubeconfig', paths.kubeconfig, ...args],
        {
          env: { HOME: paths.dir, PATH: containerd.path },
          timeoutMs: 300_000,
          maxOutputBytes: 16 * 1024 * 1024,
          ...(input === undefined ? {} : { input }),
        },
      );
      if (result.exitCode !== 0) {
        throw new Error(`kubectl ${args.join(' ')}: ${result.startError ?? result.stderr}`);
      }
      return result.stdout;
    },
    askKubelet: (method, path) => askHttps(method, `https://${ADDRESSES.node}:10250${path}`),
    async restartKubelet() {
      await stopDaemon(paths.dir, 'kubelet');
      await startProgram(paths, 'kubelet', kubeletArgs(paths, NODE));
      await untilReady(paths, 'kubelet', () => cluster.askKubelet('GET', '/healthz'));
    },
    async restartContainerd() {
      await must('sh', ['-c', cluster.restartCommand]);
      await untilReady(paths, 'containerd', () => containerd.ctrOk(['version'], 2000));
    },
    restartCommand: `p=$(cat ${paths.dir}/containerd.pid); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.05; done`,
    hostPid: () => findDaemon(paths.dir, 'containerd')?.pid ?? 1,
    importImages: (names) => importTestImages(containerd, NAMESPACE, names),
    close: () => closeCluster(cluster),
  };
  return cluster;
}

/** The server's certificate is one that it made for itself. @throws when the answer is not 2xx */
function askHttps(method: string, url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request(url, { method, rejectUnauthorized: false, agent: false, timeout: 120_000 }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (piece: string) => {
        text += piece;
      });
      answer.once('end', () => {
        const { statusCode = 0 } = answer;
        if (statusCode >= 200 && statusCode < 300) {
          resolve(text);
        } else {
          reject(new Error(`${method} ${url}: ${statusCode} ${text}`));
        }
      });
    });
    asked.once('timeout', () => asked.destroy(new Error(`${method} ${url}: no answer`)));
    asked.once('error', reject).end();
  });
}

/** Ends everything that was started below the directory, and removes it. */
async function closeCluster(cluster: Cluster): Promise<void> {
  const { paths, containerd } = cluster;
  const { dir } = paths;
  // The controllers first, or they would make the pods again.
  await stopDaemon(dir, 'kube-controller-manager');
  await stopDaemon(dir, 'kubelet');
  const namespaces = await endTasks(containerd);
  writeFileSync(join(dir, 'stopping'), '');
  for (const name of ['kube-scheduler', 'kube-apiserver', 'etcd', 'containerd']) {
    await stopDaemon(dir, name);
  }
  await stopOwned(dir);
  await removeTraces(containerd, namespaces);
  await unmountBelow(dir);
  await sleep(50);
  removeCgroups(paths.cgroupRoot);
  rmSync(dir, { recursive: true, force: true });
}

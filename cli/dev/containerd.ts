/*
 * A private containerd: root, state, socket and configuration below one directory, its own PATH, nothing shared with
 * a containerd of the machine but /run/containerd/s (shim sockets, named by a hash of address, namespace and id).
 */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import { type Env, requireProgram } from '../setup/programs.ts';
import { type Containerd, openContainerd } from './containerd-client.ts';
import { endTasks, removeTraces } from './containerd-traces.ts';
import type { ImageName } from './images.ts';
import { endedAtStart, isAlive, logTail, startDaemon, stopDaemon } from './process.ts';
import { ensureShim } from './shim.ts';
import { waitFor } from './wait.ts';

/** sun_path holds 108 bytes; containerd appends `.ttrpc` to its address. */
const MAX_SOCKET_PATH_BYTES = 100;
const CAP_SYS_RESOURCE = 24n;
/** Holds the namespaces of a pod; whoever runs pods imports it. */
export const PAUSE_IMAGE = 'docker.io/kybernate/pause:1' satisfies ImageName;

/** Further settings of the plug-in's section; empty: only what this containerd needs. */
export type CriSettings = Readonly<Record<string, boolean>>;

export interface ContainerdOptions {
  /** state directory, made when absent; short, since the socket lies in it */
  readonly dir: string;
  readonly env: Env;
  /** KYBERNATE_RUN_DIR of the node worker, where the shim's wrapper finds its agent */
  readonly runDir: string;
  /** serve CRI, Kubernetes' interface, too; absent: not */
  readonly cri?: CriSettings;
}

/** False on machines whose root may not lower oom_score_adj; containerd must then keep its hands off it. */
function mayLowerOomScore(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> CAP_SYS_RESOURCE) & 1n) === 1n;
}

/**
 * Version 3: from version 4 on the address is read from a plug-in's section, and [grpc] is silently ignored. Plug-ins
 * that would make folders outside `dir` (/opt/containerd, /etc/cni, /run/nri) are off or moved.
 */
export function containerdConfig(
  dir: string,
  { cri: settings, restrictOomScoreAdj }: { cri?: CriSettings; restrictOomScoreAdj: boolean },
): string {
  const text = (value: string): string => JSON.stringify(value);
  const cri = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images'];
  const disabled = [
    'io.containerd.nri.v1.nri',
    'io.containerd.image-verifier.v1.bindir',
    ...(settings === undefined ? cri : []),
  ];
  return `version = 3
root = ${text(join(dir, 'root'))}
state = ${text(join(dir, 'state'))}
disabled_plugins = [${disabled.map(text).join(', ')}]
[grpc]
  address = ${text(join(dir, 'containerd.sock'))}
[plugins.'io.containerd.internal.v1.opt']
  path = ${text(join(dir, 'opt'))}
${settings === undefined ? '' : criConfig(dir, { restrict_oom_score_adj: restrictOomScoreAdj, ...settings })}`;
}

/** Network namespaces are below the state directory, too: containerd's own place for them is /run/netns. */
function criConfig(dir: string, settings: CriSettings): string {
  const own = { netns_mounts_under_state_dir: true, ...settings };
  return `[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = ${JSON.stringify(PAUSE_IMAGE)}
[plugins.'io.containerd.cri.v1.runtime']
${Object.entries(own)
  .map(([key, value]) => `  ${key} = ${value}`)
  .join('\n')}
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [${JSON.stringify(join(dir, 'cni', 'bin'))}]
    conf_dir = ${JSON.stringify(join(dir, 'cni', 'net.d'))}
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kybernate]
    runtime_type = "io.containerd.runc.kybernate.v1"
`;
}

/**
 * Starts containerd unless the one of this directory runs, and waits until it answers.
 * @throws InvalidInput when the directory's path is too long for a unix socket; Internal with the end of the log
 */
export async function startContainerd(options: ContainerdOptions): Promise<Containerd> {
  const { dir, env } = options;
  const containerd = openContainerd(dir, env);
  if (Buffer.byteLength(`${containerd.address}.ttrpc`) > MAX_SOCKET_PATH_BYTES) {
    throw new KybernateError(
      'InvalidInput',
      `${dir}: too long for the path of a unix socket; choose a shorter directory`,
    );
  }
  mkdirSync(dir, { recursive: true });
  chmodSync(dir, 0o711);
  const { cri } = options;
  const config = containerdConfig(dir, {
    ...(cri === undefined ? {} : { cri }),
    restrictOomScoreAdj: !mayLowerOomScore(),
  });
  const configFile = join(dir, 'containerd.toml');
  await ensureShim(dir, options.runDir, env);
  writeFileSync(configFile, config);
  const record = await startDaemon(dir, {
    name: 'containerd',
    file: requireProgram('containerd', env),
    args: ['--config', configFile],
    env: { ...env, PATH: containerd.path },
    facts: { address: containerd.address },
  });
  await waitFor(
    `answer from containerd on ${containerd.address}`,
    30_000,
    async () => {
      if (!isAlive(record)) {
        throw endedAtStart(record);
      }
      return (await containerd.ctr(['namespaces', 'ls', '-q'], 2000)).exitCode === 0;
    },
    () => `\n${logTail(record.logFile)}`,
  );
  return containerd;
}

/**
 * Ends every task of this containerd, then containerd, and removes what they leave outside the directory: shims,
 * mounts, cgroups, sockets. Works when containerd is dead or never ran. The directory itself stays.
 */
export async function stopContainerd(dir: string, env: Env): Promise<void> {
  const containerd = openContainerd(dir, env);
  const namespaces = await endTasks(containerd);
  await stopDaemon(dir, 'containerd');
  await removeTraces(containerd, namespaces);
}

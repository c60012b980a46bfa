/* What `kybernate runtime` does: the tree, shim and wrapper, containerd's configuration; and all of it back. */
import { existsSync, rmdirSync, rmSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import { criState } from '../../native/containerd/cri.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { installShim, type ShimInstallation } from '../../shim/install.ts';
import { wrapperBundle } from '../dev/shim.ts';
import { type Env, requireProgram } from '../setup/programs.ts';
import { addRuntimes, type Change, removeRuntimes, requireContainerd } from './containerd-runtimes.ts';
import { installPayload, removeOldVersions } from './payload.ts';

/** Where distributions, kubeadm, Docker's packages and k3s put it. */
const RUNC_PLACES = [
  '/usr/local/sbin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/bin',
  '/sbin',
  '/bin',
  '/opt/bin',
  '/var/lib/rancher/k3s/data/current/bin',
  '/var/lib/rancher/rke2/bin',
];

export interface RuntimesOptions {
  readonly dir: string;
  readonly containerdConfig: string;
  readonly containerdAddress: string;
  readonly restart?: string;
  readonly say: (line: string) => void;
}

export interface InstallOptions extends RuntimesOptions {
  readonly payload?: string;
  readonly hostRoot: string;
  readonly runc?: string;
  readonly requireCri?: boolean;
  readonly runDir: string;
  readonly env: Env;
}

export interface InstallResult {
  readonly launcher: string;
  readonly runc: string;
  readonly containerd: Change;
  /** directory of the copied tree; absent where nothing was copied */
  readonly version?: string;
}

async function containerdVersion(address: string): Promise<string> {
  const containerd = connectContainerd(address);
  try {
    return await containerd.version();
  } finally {
    containerd.close();
  }
}

function containerdOptions({ containerdConfig, containerdAddress, restart, say }: RuntimesOptions) {
  return {
    configFile: containerdConfig,
    version: () => containerdVersion(containerdAddress),
    cri: () => criState(containerdAddress),
    ...(restart === undefined || restart === '' ? {} : { restart }),
    run: runExeca,
    say,
  };
}

/** @throws Incompatible there is none, with where it was looked for */
function findRunc(hostRoot: string): string {
  const found = RUNC_PLACES.map((dir) => join(dir, 'runc')).find((path) => existsSync(join(hostRoot, path)));
  if (found === undefined) {
    throw new KybernateError('Incompatible', `no runc on this node in ${RUNC_PLACES.join(', ')}; name it with --runc`);
  }
  return found;
}

/** Programs of the copied tree, or those that this command runs with. */
async function programsOf(version: string | undefined, env: Env) {
  return version === undefined
    ? { nodePath: process.execPath, wrapperPath: await wrapperBundle(), criuPath: requireProgram('criu', env) }
    : {
        nodePath: join(version, 'bin/node'),
        wrapperPath: join(version, 'dist/shim/kybernate-wrapper.mjs'),
        criuPath: join(version, 'bin/criu'),
      };
}

/**
 * Idempotent; each file appears whole. Crash: a second call finishes what is missing, a restart of containerd included.
 * @throws InvalidInput a path; Incompatible no runc, or containerd does not work with it (see `addRuntimes`)
 */
export async function installRuntimes(options: InstallOptions): Promise<InstallResult> {
  const { dir, payload, hostRoot, runDir, env } = options;
  const runc = options.runc === undefined || options.runc === '' ? findRunc(hostRoot) : options.runc;
  if (!isAbsolute(runc) || !existsSync(join(hostRoot, runc))) {
    throw new KybernateError('InvalidInput', `--runc ${runc} is no program of this node`);
  }
  const { requireCri = false } = options;
  // What runs under our runtimes uses the files that come next.
  await requireContainerd({ ...containerdOptions(options), requireCri, say: () => undefined });
  const version = payload === undefined ? undefined : await installPayload(payload, dir);
  const installation: ShimInstallation = {
    targetDir: join(dir, 'bin'),
    ...(await programsOf(version, env)),
    runcPath: runc,
    agentSocket: join(runDir, 'agent.sock'),
  };
  const launcher = installShim(installation, hostRoot);
  const containerd = await addRuntimes(launcher, { ...containerdOptions(options), requireCri });
  removeOldVersions(dir, version);
  return { launcher, runc, containerd, ...(version === undefined ? {} : { version }) };
}

/** In a container it is a mount: then the node keeps an empty directory. Files of others in it stay. */
function removeEmpty(dir: string): void {
  try {
    rmdirSync(dir);
  } catch (error) {
    if (!['EBUSY', 'ENOTEMPTY', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      throw error;
    }
  }
}

/**
 * @returns `left`: versions of the tree that processes still run from; the next call removes them
 * @throws Incompatible containerd does not come back without our runtimes; they are there again
 */
export async function uninstallRuntimes(options: RuntimesOptions): Promise<{ containerd: Change; left: string[] }> {
  const containerd = await removeRuntimes(containerdOptions(options));
  for (const name of ['bin', 'current']) {
    rmSync(join(options.dir, name), { recursive: true, force: true });
  }
  const left = removeOldVersions(options.dir, undefined);
  if (left.length === 0) {
    rmSync(join(options.dir, 'versions'), { recursive: true, force: true });
    removeEmpty(options.dir);
  }
  return { containerd, left };
}

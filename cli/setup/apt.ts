/* Debian packages, known by a file that each brings: what the machine has from elsewhere counts too. */
import { existsSync } from 'node:fs';

import { isKybernateError } from '../../core/errors.ts';
import { runLong } from './long-command.ts';
import { type Env, findProgram, type ProgramName } from './programs.ts';
import type { Installation, Purpose, Step } from './step.ts';

export interface DebianPackage {
  readonly name: string;
  readonly why: string;
  /** any of these files means that it is there */
  readonly files: readonly string[];
  readonly neededFor: readonly Purpose[];
  /** only to build this program: not needed when it is there */
  readonly unless?: ProgramName;
}

const ALL = ['run', 'demo', 's3', 'test', 'build', 'kubernetes'] as const;
const NODE = ['run', 'demo', 'test'] as const;

export const DEBIAN_PACKAGES: readonly DebianPackage[] = [
  {
    name: 'ca-certificates',
    why: 'downloads by HTTPS',
    files: ['/etc/ssl/certs/ca-certificates.crt'],
    neededFor: ALL,
  },
  {
    name: 'libc6-dev',
    why: 'headers of the C library, to compile CRIU, runc and containerd',
    files: ['/usr/include/stdio.h'],
    neededFor: NODE,
  },
  {
    name: 'libseccomp-dev',
    why: 'system call filters of runc',
    files: ['/usr/include/seccomp.h'],
    neededFor: NODE,
    unless: 'runc',
  },
  {
    name: 'pkg-config',
    why: 'finds libseccomp for runc',
    files: ['/usr/bin/pkg-config'],
    neededFor: NODE,
    unless: 'runc',
  },
  {
    name: 'nftables',
    why: 'removes the network lock of a dump that died',
    files: ['/usr/sbin/nft', '/sbin/nft'],
    neededFor: NODE,
  },
  {
    name: 'busybox-static',
    why: 'shell of the example images',
    files: ['/usr/bin/busybox', '/bin/busybox'],
    neededFor: ['demo', 'test'],
  },
  {
    // The same program as in redis-server, which would start a service.
    name: 'redis-tools',
    why: 'redis in the example image, started only in containers',
    files: ['/usr/bin/redis-check-rdb'],
    neededFor: ['demo', 'test'],
  },
  {
    name: 'python3',
    why: 'workload of the test images',
    files: ['/usr/bin/python3'],
    neededFor: ['test'],
  },
  {
    name: 'iproute2',
    why: 'network namespaces of the tests',
    files: ['/usr/sbin/ip', '/sbin/ip', '/usr/bin/ip'],
    neededFor: ['test', 'kubernetes'],
  },
  {
    name: 'patchelf',
    why: 'lets the programs of the container image bring their own libraries',
    files: ['/usr/bin/patchelf'],
    neededFor: ['kubernetes'],
  },
];

function isMissing(item: DebianPackage, env: Env): boolean {
  const useless = item.unless !== undefined && findProgram(item.unless, env) !== undefined;
  return !useless && !item.files.some((file) => existsSync(file));
}

/** Installs packages; the lists are fetched only when the first attempt says no (none there, or too old). */
export async function aptInstall(names: readonly string[], installation: Installation): Promise<void> {
  const { logFile, progress } = installation;
  const env = { ...installation.env, DEBIAN_FRONTEND: 'noninteractive' };
  const install = ['apt-get', '--quiet', '--yes', '--no-install-recommends', 'install', ...names] as const;
  const onLine = (line: string): void => progress(line.slice(0, 60));
  try {
    await runLong(install, { env, logFile, onLine });
  } catch (error) {
    if (!isKybernateError(error, 'Incompatible')) {
      throw error;
    }
    await runLong(['apt-get', '--quiet', 'update'], { env, logFile, onLine });
    await runLong(install, { env, logFile, onLine });
  }
}

/** One step for all packages of the purposes: one call of apt-get for what is missing. */
export function aptStep(packages: readonly DebianPackage[], purposes: readonly Purpose[]): Step {
  const wanted = packages.filter((item) => item.neededFor.some((purpose) => purposes.includes(purpose)));
  const missing = (env: Env): DebianPackage[] => wanted.filter((item) => isMissing(item, env));
  return {
    name: 'Debian packages',
    why: 'the only thing that set-up installs into the system',
    neededFor: ALL,
    remedy: `apt-get install ${wanted.map((item) => item.name).join(' ')}`,
    check: async (env) => {
      const names = missing(env).map((item) => `${item.name} (${item.why})`);
      return names.length === 0
        ? { ok: true, detail: `${wanted.length} there` }
        : { ok: false, detail: `missing: ${names.join(', ')}` };
    },
    install: (installation) =>
      aptInstall(
        missing(installation.env).map((item) => item.name),
        installation,
      ),
  };
}

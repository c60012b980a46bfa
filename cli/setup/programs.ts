/*
 * The programs that Kybernate runs, where they are looked for, and which version is enough. First PATH (what the
 * machine has is used when it is new enough), then the cache that set-up fills: one folder per program and version,
 * made under another name and renamed, so that a program that is there is whole.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import { cacheDir } from '../dev/paths.ts';
import { findVersion, isAtLeast } from './version.ts';

export type Env = Readonly<Record<string, string | undefined>>;

export interface ProgramSpec {
  /** folder below `<cache>/programs` is `<package>-<version>` */
  readonly package: string;
  /** what set-up installs */
  readonly version: string;
  /** what is accepted from PATH; absent: any, the program cannot tell its version */
  readonly minimum?: string;
  readonly versionArgs?: readonly string[];
  /** the part of the output that holds the version, when it is not the first dotted number */
  readonly versionPattern?: RegExp;
  readonly subdir: 'bin' | 'sbin' | 'usr/bin' | 'usr/sbin';
  /** looked at instead of PATH */
  readonly dirs?: readonly string[];
}

const CONTAINERD = { package: 'containerd', version: '2.4.2', minimum: '2.0', subdir: 'bin' } as const;
// Never those of the machine: they belong to its services. `debian.ts` unpacks them.
const DOCKER = { package: 'debian-docker', version: '20.10.24', dirs: [] } as const;
// Not on PATH: iproute2 has a program named bridge, too.
const CNI = { package: 'cni', version: '1.9.1', subdir: 'bin', dirs: ['/opt/cni/bin', '/usr/lib/cni'] } as const;

// One version of all of them, never another one of PATH: they are tested together.
const KUBERNETES = { package: 'kubernetes', version: '1.36.3', subdir: 'bin', dirs: [] } as const;

export const PROGRAMS = {
  // Older CRIU fails on kernels from 6.16 on: "sockets: Can't get 1:16 opt".
  criu: { package: 'criu', version: '4.2.1', minimum: '4.2', versionArgs: ['--version'], subdir: 'sbin' },
  containerd: { ...CONTAINERD, versionArgs: ['--version'] },
  'containerd-shim-runc-v2': { ...CONTAINERD, versionArgs: ['-v'] },
  ctr: { ...CONTAINERD, versionArgs: ['--version'] },
  runc: { package: 'runc', version: '1.5.2', minimum: '1.3', versionArgs: ['--version'], subdir: 'bin' },
  // A CLI built by `go install` calls itself 0.0.0-DEV; the server inside tells its version in both builds.
  temporal: {
    package: 'temporal',
    version: '1.5.1',
    minimum: '1.29',
    versionArgs: ['--version'],
    versionPattern: /Server (\d+\.\d+\.\d+)/,
    subdir: 'bin',
  },
  versitygw: { package: 'versitygw', version: '1.8.0', minimum: '1.0.12', versionArgs: ['--version'], subdir: 'bin' },
  // The version is Debian's: 4.3 in release 12, 5.4 in release 13.
  podman: { package: 'podman', version: 'debian', minimum: '4.0', versionArgs: ['--version'], subdir: 'bin' },
  checkpointctl: { package: 'checkpointctl', version: '1.4.0', subdir: 'bin' },
  bridge: CNI,
  loopback: CNI,
  'host-local': CNI,
  portmap: CNI,
  kubelet: KUBERNETES,
  'kube-apiserver': KUBERNETES,
  'kube-controller-manager': KUBERNETES,
  'kube-scheduler': KUBERNETES,
  kubectl: KUBERNETES,
  etcd: KUBERNETES,
  // Helm 3 reads the chart, too; tests take one version.
  helm: { package: 'helm', version: '4.3.1', subdir: 'bin', dirs: [] },
  dockerd: { ...DOCKER, subdir: 'usr/sbin' },
  docker: { ...DOCKER, subdir: 'usr/bin' },
  'docker-registry': { package: 'debian-docker-registry', version: '2.8.2', dirs: [], subdir: 'usr/bin' },
} as const satisfies Record<string, ProgramSpec>;

export type ProgramName = keyof typeof PROGRAMS;

export interface FoundProgram {
  readonly path: string;
  /** as printed by a program on PATH, or that of the cache folder; absent when it cannot tell */
  readonly version?: string;
  readonly from: 'path' | 'cache';
}

/** Folder of one package of programs, whether or not it is there: `<cache>/programs/<package>-<version>`. */
export function packageDir(spec: ProgramSpec, env: Env): string {
  return join(cacheDir(env), 'programs', `${spec.package}-${spec.version}`);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    // Not there or not ours to run: both mean that the search goes on.
    return false;
  }
}

/** Every executable of that name in these folders, in order. */
export function inDirs(name: string, dirs: readonly string[]): string[] {
  const absolute = dirs.filter((dir) => dir.startsWith('/'));
  return [...new Set(absolute)].map((dir) => join(dir, name)).filter(isExecutable);
}

/** The folders of PATH, in order. */
export function pathDirs(env: Env): string[] {
  return (env['PATH'] ?? '').split(delimiter);
}

/** What a program says its version is; undefined when it does not start or prints no number. */
export function askVersion(path: string, args: readonly string[], pattern?: RegExp): string | undefined {
  const result = spawnSync(path, args, { encoding: 'utf8', timeout: 20_000, stdio: ['ignore', 'pipe', 'pipe'] });
  const text = `${result.stdout}\n${result.stderr}`;
  return pattern === undefined ? findVersion(text) : pattern.exec(text)?.[1];
}

function locate(spec: ProgramSpec, name: string, env: Env): FoundProgram | undefined {
  for (const path of inDirs(name, spec.dirs ?? pathDirs(env))) {
    if (spec.minimum === undefined) {
      return { path, from: 'path' };
    }
    const version = askVersion(path, spec.versionArgs ?? [], spec.versionPattern);
    if (version !== undefined && isAtLeast(version, spec.minimum)) {
      return { path, version, from: 'path' };
    }
  }
  const cached = join(packageDir(spec, env), spec.subdir, name);
  return isExecutable(cached) ? { path: cached, version: spec.version, from: 'cache' } : undefined;
}

const found = new Map<string, FoundProgram>();

/** As `findProgram`, with the version and the place. Found programs are remembered, missing ones looked for again. */
export function describeProgram(name: ProgramName, env: Env): FoundProgram | undefined {
  const key = [name, env['PATH'], cacheDir(env)].join('\0');
  const known = found.get(key);
  if (known !== undefined) {
    return known;
  }
  const program = locate(PROGRAMS[name], name, env);
  if (program !== undefined) {
    found.set(key, program);
  }
  return program;
}

/** Absolute path of a program in a sufficient version: from PATH, else from the cache, else undefined. */
export function findProgram(name: ProgramName, env: Env): string | undefined {
  return describeProgram(name, env)?.path;
}

/** @throws Incompatible naming the set-up command when the program is not there */
export function requireProgram(name: ProgramName, env: Env): string {
  const path = findProgram(name, env);
  if (path === undefined) {
    throw new KybernateError(
      'Incompatible',
      `${name} is not installed in a sufficient version; run \`kybernate setup\``,
    );
  }
  return path;
}

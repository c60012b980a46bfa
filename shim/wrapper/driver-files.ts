/*
 * Which GPUs this node has and where its driver's files lie. Read from /proc, /dev and the usual directories, below a
 * root of their own where the driver lives in a container (/run/nvidia/driver) or a test made one.
 * Sources: the driver's README (procfs interface: /proc/driver/nvidia/gpus/<bus>/information), ldconfig(8).
 */
import { readFileSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type DriverFiles, type DriverGpu, type DriverLibrary, driverVersionIn } from '../../core/oci/driver-edits.ts';
import type { GpuNode } from '../../core/oci/gpu-fit.ts';
import type { Run } from '../../native/run/run.ts';

const PROC = '/proc/driver/nvidia';
/** Where distributions and NVIDIA's own installer put libraries; their loaders search them. */
const LIBRARY_DIRS = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/usr/local/nvidia/lib64',
];
/** What CUDA and NVML load; the first two must be there. Each ends with the driver's version. */
const LIBRARIES = [
  'libcuda',
  'libnvidia-ml',
  'libnvidia-ptxjitcompiler',
  'libnvidia-nvvm',
  'libnvidia-gpucomp',
  'libcudadebugger',
];
const REQUIRED = 2;
const DRIVER_NODES = ['nvidiactl', 'nvidia-uvm', 'nvidia-uvm-tools'];
const PROGRAMS = ['/usr/bin/nvidia-smi'];

/**
 * @param root prefix of every path; empty for the node's own root
 * @returns undefined when no driver is loaded, and a reason when its files are not found
 */
export async function findDriver(
  root: string,
  run: Run,
): Promise<DriverFiles | { readonly reason: string } | undefined> {
  const version = driverVersionIn(textOf(join(root, PROC, 'version')));
  if (version === undefined) {
    return undefined;
  }
  const known = root === '' ? await loaderDirs(run) : [];
  const libraries = LIBRARIES.map((name) => findLibrary(root, `${name}.so.${version}`, [...LIBRARY_DIRS, ...known]));
  const missing = LIBRARIES.slice(0, REQUIRED).filter((_name, index) => libraries[index] === undefined);
  if (missing.length > 0) {
    return { reason: `the driver ${version} is loaded, but ${missing.join(' and ')} of that version is not installed` };
  }
  return {
    version,
    gpus: findGpus(root),
    nodes: DRIVER_NODES.flatMap((name) => nodeAt(root, `/dev/${name}`) ?? []),
    libraries: libraries.filter((library) => library !== undefined),
    programs: PROGRAMS.map((path) => ({ path, source: join(root, path) })).filter(({ source }) => isFile(source)),
  };
}

/** In the order of the PCI bus; those without a device node are left out. */
export function findGpus(root: string): readonly DriverGpu[] {
  return namesIn(join(root, PROC, 'gpus'))
    .sort()
    .flatMap((bus) => {
      const text = textOf(join(root, PROC, 'gpus', bus, 'information'));
      const field = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
      const node = nodeAt(root, `/dev/nvidia${field('Device Minor')}`);
      return node === undefined ? [] : [{ uuid: field('GPU UUID'), model: field('Model'), node }];
    });
}

/** Numbers of a character device; undefined when there is none. */
export function nodeAt(root: string, path: string): GpuNode | undefined {
  const stats = statSync(join(root, path), { throwIfNoEntry: false });
  if (stats?.isCharacterDevice() !== true) {
    return undefined;
  }
  // as the kernel packs them: 12 bits of the major, 20 of the minor in two pieces
  const major = (stats.rdev >> 8) & 0xfff;
  const minor = (stats.rdev & 0xff) | ((stats.rdev >> 12) & 0xfff00);
  return { path, major, minor };
}

/** Names of links in the same directory that lead to the file. */
export function linksTo(path: string): readonly string[] {
  const own = basename(path);
  const stem = own.slice(0, own.indexOf('.so') + '.so'.length);
  return namesIn(dirname(path)).filter(
    (name) => name !== own && name.startsWith(stem) && realPath(join(dirname(path), name)) === realPath(path),
  );
}

function findLibrary(root: string, name: string, dirs: readonly string[]): DriverLibrary | undefined {
  const dir = dirs.find((candidate) => isFile(join(root, candidate, name)));
  if (dir === undefined) {
    return undefined;
  }
  const source = join(root, dir, name);
  return { source, dir, names: [name, ...linksTo(source)] };
}

/** Directories that the loader knows besides; none when ldconfig is not there. */
async function loaderDirs(run: Run): Promise<readonly string[]> {
  const { stdout } = await run('ldconfig', ['-p'], { timeoutMs: 5000, maxOutputBytes: 4 * 1024 * 1024 });
  const found = stdout.matchAll(/^\s*libcuda\.so\.1 \(libc6,(?:x86-64|AArch64).*=> (\/.*)\/[^/]+$/gm);
  return [...found].flatMap(([, dir]) => dir ?? []);
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    // A link that leads nowhere.
    return undefined;
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    // No such directory: nothing in it.
    return [];
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // No driver, or a GPU that went away.
    return '';
  }
}

/*
 * What a container gets of a driver that no CDI specification describes: the device nodes of its GPUs and of the driver,
 * and every library as a mount of its own. A mount cannot be a symbolic link, so each library is mounted under all names
 * by which programs ask for it (libcuda.so.1, libcuda.so) besides its own.
 */
import { KybernateError } from '../errors.ts';
import type { GpuNode } from './gpu-fit.ts';
import type { GpuEdits, GpuWish } from './gpu-spec.ts';
import type { OciMount } from './spec.ts';

export interface DriverGpu {
  readonly uuid: string;
  readonly model: string;
  readonly node: GpuNode;
}

export interface DriverLibrary {
  /** where it lies on the host */
  readonly source: string;
  /** directory on the driver's own root, without a prefix */
  readonly dir: string;
  /** its own name and those of the links to it */
  readonly names: readonly string[];
}

export interface DriverFiles {
  readonly version: string;
  /** in the order of the PCI bus: the position is the index that nvidia-smi shows */
  readonly gpus: readonly DriverGpu[];
  /** nvidiactl, nvidia-uvm, nvidia-uvm-tools, as far as they are there */
  readonly nodes: readonly GpuNode[];
  readonly libraries: readonly DriverLibrary[];
  /** nvidia-smi, when it is there */
  readonly programs: ReadonlyArray<{ readonly source: string; readonly path: string }>;
}

/**
 * Of the loaded kernel module. The text names the architecture before or behind the words "Kernel Module".
 * @param text content of /proc/driver/nvidia/version
 */
export function driverVersionIn(text: string): string | undefined {
  return /Kernel Module\s.*?(\d+\.\d+(?:\.\d+)?)\s/.exec(text)?.[1];
}

/** For containers of another distribution: NVIDIA's images search it by themselves. */
const FOREIGN_LIBRARY_DIR = '/usr/local/nvidia/lib64';
const OPTIONS = ['bind', 'ro', 'rprivate', 'nosuid', 'nodev'];

/** One file of the host, read-only, as the driver's files come into a container. */
export function driverMount(source: string, destination: string): OciMount {
  return { destination, type: 'bind', source, options: OPTIONS };
}

/**
 * @param searched does the container have this directory of libraries? Its loader searches it then: they are those that
 *   distributions search by themselves
 * @throws Incompatible a GPU is named that is not there
 */
export function driverEdits(driver: DriverFiles, wish: GpuWish, searched: (dir: string) => boolean): GpuEdits {
  const gpus = chosenGpus(driver.gpus, wish);
  const foreign = driver.libraries.some(({ dir }) => !searched(dir));
  const mounts = [
    ...driver.libraries.flatMap(({ source, dir, names }) =>
      names.map((name) => driverMount(source, `${searched(dir) ? dir : FOREIGN_LIBRARY_DIR}/${name}`)),
    ),
    ...driver.programs.map(({ source, path }) => driverMount(source, path)),
  ];
  return {
    nodes: [...gpus.map(({ node }) => node), ...driver.nodes],
    mounts,
    env: [],
    libraryDirs: foreign ? [FOREIGN_LIBRARY_DIR] : [],
    hooks: {},
  };
}

/** @throws Incompatible naming what is missing and what there is */
function chosenGpus(gpus: readonly DriverGpu[], wish: GpuWish): readonly DriverGpu[] {
  if (wish.gpus === 'all') {
    return gpus;
  }
  const chosen = new Set(wish.gpus.map((name) => gpuNamed(gpus, name)));
  const missing = wish.gpus.filter((name) => gpuNamed(gpus, name) === undefined);
  if (missing.length > 0) {
    const there = gpus.map(({ uuid, model }, index) => `${index} ${uuid} (${model})`).join(', ');
    throw unknownGpus(wish, missing, there);
  }
  return gpus.filter((gpu) => chosen.has(gpu));
}

export function unknownGpus(wish: GpuWish, missing: readonly string[], there: string): KybernateError {
  return new KybernateError(
    'Incompatible',
    `${wish.origin} asks for GPU ${missing.join(', ')}, which this node does not have; it has ${there}`,
    { details: { missing } },
  );
}

export function gpuNamed(gpus: readonly DriverGpu[], name: string): DriverGpu | undefined {
  return /^\d+$/.test(name) ? gpus[Number(name)] : gpus.find(({ uuid }) => uuid === name);
}

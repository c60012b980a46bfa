/*
 * Containers that use a GPU, as a device plug-in without a CDI specification would make them: the host's /usr and /etc,
 * the driver and Python's environment each as a mount of its own in the specification (a mount that comes in below
 * another is unknown to runc, and its dump fails), device nodes with their rules.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { CaseContext } from './case.ts';
import { assert, BUSYBOX, type Environment } from './environment.ts';
import { DRIVER_DIR, type Machine } from './machine.ts';

const SOURCES = fileURLToPath(new URL('workloads', import.meta.url));
/** Without NVLink multicast: on shared hosts it can put the GPUs out of service. */
const SAFE_VARIABLES = ['NCCL_NVLS_ENABLE=0', 'TORCH_SYMM_MEM_DISABLE_MULTICAST=1', 'NVSHMEM_DISABLE_NVLS=1'];

export interface GpuContainerOptions {
  /** minors of the devices that it gets; default: the first GPU */
  readonly minors?: readonly number[];
  readonly variables?: readonly string[];
  readonly flags?: readonly string[];
}

function bind(source: string, target = source): string[] {
  return ['--mount', `type=bind,src=${source},dst=${target},options=bind:ro:rprivate`];
}

/** Folder of Python's environment where it is not part of /usr. */
function pythonDir({ python }: Machine): string | undefined {
  const dir = python === undefined ? undefined : dirname(dirname(python));
  return dir === undefined || dir.startsWith('/usr') ? undefined : dir;
}

export function gpuFlags(machine: Machine, options: GpuContainerOptions = {}): string[] {
  const minors = options.minors ?? machine.gpus.slice(0, 1).map(({ minor }) => minor);
  const nodes = ['/dev/nvidiactl', '/dev/nvidia-uvm', '/dev/nvidia-uvm-tools'].concat(
    minors.map((minor) => `/dev/nvidia${minor}`),
  );
  const folders = [DRIVER_DIR, pythonDir(machine)].filter((dir) => dir !== undefined && existsSync(dir));
  const path = [
    ...(machine.python === undefined ? [] : [dirname(machine.python)]),
    '/usr/local/bin',
    '/usr/bin',
    '/bin',
  ];
  const variables = [
    `PATH=${path.join(':')}`,
    `LD_LIBRARY_PATH=${DRIVER_DIR}/lib64`,
    'HOME=/tmp',
    'PYTHONUNBUFFERED=1',
    ...SAFE_VARIABLES,
    ...(options.variables ?? []),
  ];
  return [
    ...bind('/usr'),
    ...bind('/etc'),
    ...folders.flatMap((dir) => bind(String(dir))),
    ...bind(workDir(), '/w'),
    ...nodes.filter((node) => existsSync(node)).flatMap((node) => ['--device', node]),
    ...variables.flatMap((variable) => ['--env', variable]),
    ...(options.flags ?? []),
  ];
}

/** Holds the compiled workloads and, below `src`, their sources; containers see it as /w. */
export function workDir(): string {
  return join(process.env['KYBERNATE_GPU_DIR'] ?? '/tmp/kybernate-gpu', 'work');
}

/** Compiles the CUDA workloads for this machine's GPU, or their host-memory form where there is none. */
export function buildWorkloads(machine: Machine): void {
  mkdirSync(workDir(), { recursive: true });
  const nvcc = ['/usr/local/cuda/bin/nvcc', '/usr/bin/nvcc', '/usr/local/bin/nvcc'].find((path) => existsSync(path));
  const [compiler, flags] =
    machine.gpus.length > 0
      ? [nvcc ?? 'nvcc', ['-arch=native', '-cudart', 'static']]
      : ['c++', ['-x', 'c++', '-DHOST_ONLY', '-static', '-pthread']];
  for (const name of ['vram', 'hog']) {
    const [source, target] = [join(SOURCES, `${name}.cu`), join(workDir(), name)];
    const result = spawnSync(compiler, [...flags, '-O2', '-o', target, source], { encoding: 'utf8', timeout: 180_000 });
    assert(result.status === 0, `${compiler} compiles ${name}.cu: ${result.error?.message ?? result.stderr}`);
  }
  const copy = spawnSync('cp', ['-rT', SOURCES, join(workDir(), 'src')], { encoding: 'utf8' });
  assert(copy.status === 0, `the workloads can be copied: ${copy.stderr}`);
}

export interface VramState {
  readonly tick: number;
  readonly bad: number;
  readonly vram: string;
  readonly cpu: string;
  readonly file: string;
  readonly path: string;
  readonly failed?: string;
}

/** Starts the CUDA workload and returns what it says first. */
export async function startVram(
  { env, machine }: Pick<CaseContext, 'env' | 'machine'>,
  args: readonly (string | number)[],
  options: GpuContainerOptions = {},
): Promise<{ id: string; state: VramState }> {
  const id = await env.run('vram', BUSYBOX, ['/w/vram', ...args.map(String)], gpuFlags(machine, options));
  return { id, state: await vramState(env, id) };
}

/** @param name as given to the workload */
export async function vramState(env: Environment, id: string, name = 'state'): Promise<VramState> {
  const state = await env.readJson<VramState>(id, `/tmp/${name}.json`);
  assert(state.failed === undefined, `the workload in ${id} works: ${state.failed}`);
  return state;
}

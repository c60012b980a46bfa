/* What /proc tells of one process's use of GPUs: the driver answers only whether it has CUDA state at all. */
import { join } from 'node:path';
import { openFds } from '../../native/proc/fds.ts';
import { readMaps } from '../../native/proc/maps.ts';
import { readProc, readProcLink } from '../../native/proc/read.ts';
import { look } from './hooks.ts';

export interface GpuTraces {
  readonly hostPid: number;
  /** minor of a GPU's node to the number of descriptors of it */
  readonly fdsByMinor: ReadonlyMap<number, number>;
  /** descriptors of all NVIDIA nodes, nvidiactl and nvidia-uvm too */
  readonly deviceFds: number;
  readonly deviceMappings: number;
  /** memory of another process on the GPU is mapped, or its own is lent */
  readonly cudaIpc: boolean;
  readonly ncclLoaded: boolean;
  /** NCCL's transport over shared memory is in use */
  readonly ncclSharedMemory: boolean;
  /** neither P2P nor host memory shared through the driver: NCCL 2.28 takes the latter when P2P alone is off */
  readonly ncclP2pDisabled: boolean;
  /** its calls go through a server of the Multi-Process Service */
  readonly mps: boolean;
  /** path of the program, by which a forked child is told from one that runs another program */
  readonly program: string;
}

const GPU_NODE = /^\/dev\/nvidia(\d+)$/;
const ANY_NODE = /^\/dev\/nvidia/;
const MPS_PATH = /\/nvidia-mps\/|nvidia-cuda-mps/;
const MPS_DIR = '/tmp/nvidia-mps';

/** Nothing of a process that has ended. */
export function gpuTraces(hostPid: number): GpuTraces {
  const targets = openFds(hostPid).map((open) => open.target);
  const paths = readMaps(hostPid).map((mapping) => mapping.path);
  const environment = (readProc(`/proc/${hostPid}/environ`) ?? '').split('\0');
  return { hostPid, ...tracesIn(targets, paths, environment), ...outsideTraces(hostPid, targets, paths, environment) };
}

function outsideTraces(
  hostPid: number,
  targets: readonly string[],
  paths: readonly string[],
  environment: readonly string[],
): Pick<GpuTraces, 'mps' | 'program'> {
  const connected = [...targets, ...paths].some((path) => MPS_PATH.test(path));
  const dir = valueOf(environment, 'CUDA_MPS_PIPE_DIRECTORY') ?? MPS_DIR;
  return {
    mps: connected || exists(`/proc/${hostPid}/root`, join(dir, 'control')),
    program: readProcLink(`/proc/${hostPid}/exe`) ?? '',
  };
}

/** Something that cannot be looked at, a link on the way for example, is no pipe of a server. */
function exists(root: string, path: string): boolean {
  try {
    return look(root, path) !== undefined;
  } catch {
    // InvalidInput of a link, or the process has ended.
    return false;
  }
}

/** The part that needs no machine. Sources: names that libcuda and NCCL 2.28 give to their shared memory, measured. */
export function tracesIn(
  targets: readonly string[],
  paths: readonly string[],
  environment: readonly string[],
): Omit<GpuTraces, 'hostPid' | 'mps' | 'program'> {
  const fdsByMinor = new Map<number, number>();
  for (const target of targets) {
    const minor = GPU_NODE.exec(target)?.[1];
    if (minor !== undefined) {
      fdsByMinor.set(Number(minor), (fdsByMinor.get(Number(minor)) ?? 0) + 1);
    }
  }
  return {
    fdsByMinor,
    deviceFds: targets.filter((target) => ANY_NODE.test(target)).length,
    deviceMappings: paths.filter((path) => ANY_NODE.test(path)).length,
    cudaIpc: paths.some((path) => path.startsWith('/dev/shm/cuda.shm.')),
    ncclLoaded: paths.some((path) => /\/libnccl\.so[^/]*$/.test(path)),
    ncclSharedMemory: paths.some((path) => path.startsWith('/dev/shm/nccl-')),
    ncclP2pDisabled:
      valueOf(environment, 'NCCL_P2P_DISABLE') === '1' &&
      (valueOf(environment, 'NCCL_CUMEM_HOST_ENABLE') === '0' || valueOf(environment, 'NCCL_SHM_DISABLE') === '1'),
  };
}

function valueOf(environment: readonly string[], name: string): string | undefined {
  return environment.find((entry) => entry.startsWith(`${name}=`))?.slice(name.length + 1);
}

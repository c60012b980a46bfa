/*
 * Everything that would cost a job after the lock, as reasons before it. Four of them the driver does not see itself: it
 * saves, and can never bring back (CUDA IPC, peer access between GPUs of a process, NCCL over P2P, GPU memory that runs
 * out). Pure: facts in, sentences out, each with what to do.
 */
import type { GpuOptions } from '../../core/contract/gpu.ts';
import { SAVE_OVERHEAD_BYTES } from '../../core/gpu/process-state.ts';
import type { GpuDevice, GpuMemoryUse } from '../../native/cuda/gpu-driver.ts';
import type { GpuPlan, GpuProcess } from './gpu-plan.ts';
import type { GpuTraces } from './process-facts.ts';

/** The first driver API with cuCheckpointProcess calls. Source: cuda.h of 12.8. */
export const MIN_API_VERSION = 12_080;

/** Descriptors of one GPU's node that a process with a context on it holds at least; measured: 23, 7 without one. */
const CONTEXT_FDS = 15;
/** Beside the save's own need: for the processes of the node itself. */
const MEMORY_MARGIN = 0.05;
const MEMORY_MARGIN_BYTES = 64 * 1024 * 1024;
/** The way back, measured at 6 to 8 GB/s on H100: slower machines must not run out of their budget. */
const RESTORE_BYTES_PER_SECOND = 2e9;
/** All processes together, over the memory of the host. */
const RESTORE_BYTES_PER_SECOND_TOTAL = 8e9;
const RESTORE_FIXED_MS = 1500;

export interface GateProcess extends GpuProcess {
  readonly traces: Omit<GpuTraces, 'hostPid' | 'program'>;
  /** came back from `rehearse` once */
  readonly rehearsed: boolean;
}

export interface GateFacts {
  readonly processes: readonly GateProcess[];
  readonly children: GpuPlan['children'];
  /** of the node; those that no process can see do not matter */
  readonly devices: readonly GpuDevice[];
  /** memory of all processes of the node on its GPUs */
  readonly inUse: readonly GpuMemoryUse[];
  /** of processes that are part of the checkpoint */
  readonly ownHostPids: ReadonlySet<number>;
  /** name of a process outside, for the message */
  readonly nameOf: (hostPid: number) => string;
  readonly options: Pick<GpuOptions, 'allowShared' | 'assumeSafe'>;
  readonly rehearsal: boolean;
  readonly canScrub: boolean;
  readonly arch: string;
  /** MemAvailable of the node, which `freemem` of node:os tells */
  readonly availableMemoryBytes: number;
  readonly reservedMemoryBytes: number;
  readonly reservedVram: ReadonlyMap<string, number>;
  readonly freezeBudgetMs: number;
}

export interface GateReasons {
  /** what the driver cannot do: GpuUnsupported */
  readonly unsupported: readonly string[];
  /** what this node, its other users or the request do not allow: Incompatible */
  readonly refusals: readonly string[];
  readonly warnings: readonly string[];
}

/** Host memory that the save of these processes takes. */
export function saveBytes(processes: readonly Pick<GpuProcess, 'vramBytes'>[]): number {
  return processes.reduce((sum, process) => sum + process.vramBytes + SAVE_OVERHEAD_BYTES, 0);
}

/** Longest time that the way back takes; the processes go back at the same time. */
export function restoreEstimateMs(processes: readonly Pick<GpuProcess, 'vramBytes'>[]): number {
  if (processes.length === 0) {
    return 0;
  }
  const sizes = processes.map((process) => process.vramBytes);
  const total = sizes.reduce((sum, bytes) => sum + bytes, 0);
  const seconds = Math.max(Math.max(...sizes) / RESTORE_BYTES_PER_SECOND, total / RESTORE_BYTES_PER_SECOND_TOTAL);
  return Math.ceil(RESTORE_FIXED_MS + seconds * 1000);
}

export function gateReasons(facts: GateFacts): GateReasons {
  const unseen = unseenReasons(facts);
  const shared = sharedReasons(facts);
  const vouched = facts.rehearsal || facts.options.assumeSafe;
  return {
    unsupported: [
      ...modeReasons(facts),
      ...ipcReasons(facts),
      ...childReasons(facts),
      ...(vouched ? [] : unseen.filter(({ rehearsed }) => !rehearsed).map(({ text, remedy }) => `${text}: ${remedy}`)),
    ],
    refusals: [
      ...(facts.options.allowShared ? [] : shared.map((text) => `${text}: stop it, or allow it by gpu.allowShared`)),
      ...memoryReasons(facts),
      ...vramReasons(facts),
      ...budgetReasons(facts),
    ],
    warnings: [
      ...untoldReasons(facts),
      ...(vouched ? unseen.map(({ text }) => text) : []),
      ...(facts.options.allowShared
        ? shared.map((text) => `${text}, and may take the memory before the way back`)
        : []),
    ],
  };
}

function title(process: Pick<GpuProcess, 'hostPid' | 'command'>): string {
  return `process ${process.hostPid} (${process.command})`;
}

function modeReasons(facts: GateFacts): string[] {
  const visible = new Set(facts.processes.flatMap((process) => [...process.visible, ...process.devices]));
  const mig = facts.devices
    .filter((device) => device.mig && visible.has(device.uuid))
    .map(
      ({ uuid, minor }) =>
        `GPU ${minor} (${uuid}) is partitioned (MIG), which the driver cannot save: use a whole GPU (nvidia-smi -mig 0)`,
    );
  const mps = facts.processes
    .filter(({ traces }) => traces.mps)
    .map(
      (process) =>
        `${title(process)} uses the GPU through the Multi-Process Service, which the driver cannot save: end ` +
        'nvidia-cuda-mps-control (echo quit), and start the program again',
    );
  return [...mig, ...mps];
}

function ipcReasons(facts: GateFacts): string[] {
  return facts.processes
    .filter(({ traces }) => traces.cudaIpc)
    .map(
      (process) =>
        `${title(process)} shares GPU memory with another process by CUDA IPC (/dev/shm/cuda.shm.* is mapped), which the ` +
        'driver saves and cannot bring back: pass data through host memory instead, in PyTorch by CPU tensors',
    );
}

function childReasons(facts: GateFacts): string[] {
  return facts.canScrub
    ? []
    : facts.children.map(
        (child) =>
          `${title(child)} was forked from a CUDA process and holds its devices, of which it can be freed on x86-64 ` +
          `alone, not on ${facts.arch}: start it by spawn instead of fork`,
      );
}

interface Unseen {
  readonly text: string;
  readonly remedy: string;
  readonly rehearsed: boolean;
}

/** What cannot be seen from outside for certain. */
function unseenReasons(facts: GateFacts): Unseen[] {
  return facts.processes.flatMap((process): Unseen[] => {
    const { traces, rehearsed } = process;
    const found: Unseen[] = [];
    if (traces.fdsByMinor.size > 1 && traces.ncclLoaded && !traces.ncclSharedMemory && !traces.ncclP2pDisabled) {
      const text = `${title(process)} seems to run NCCL over P2P or the driver's shared memory, which the driver saves and cannot bring back`;
      found.push({
        text,
        remedy: 'start the job with NCCL_P2P_DISABLE=1 and NCCL_CUMEM_HOST_ENABLE=0, or rehearse it first',
        rehearsed,
      });
    }
    const full = [...traces.fdsByMinor].filter(([, count]) => isContext(count)).map(([minor]) => minor);
    if (full.length > 1) {
      const text =
        `${title(process)} has contexts on GPUs ${full.join(', ')}; with peer access between them the driver saves it ` +
        'and cannot bring it back, which nobody can see';
      const remedy =
        'run `kybernate gpu rehearse` while the job is young, or vouch by gpu.assumeSafe or the annotation ' +
        'kybernate.io/gpu-assume-safe: "true" that it has none';
      found.push({ text, remedy, rehearsed });
    }
    return found;
  });
}

/** After the save a neighbour may take the memory, and there is no way back. */
function sharedReasons(facts: GateFacts): string[] {
  const ours = new Set(facts.processes.flatMap((process) => process.devices));
  const minors = new Map(facts.devices.map((device) => [device.uuid, device.minor]));
  return facts.inUse
    .filter((use) => ours.has(use.uuid) && !facts.ownHostPids.has(use.hostPid))
    .map(
      ({ hostPid, uuid, usedBytes }) =>
        `GPU ${minors.get(uuid) ?? '?'} (${uuid}) is also used by ${facts.nameOf(hostPid)}, outside of the checkpoint, ` +
        `with ${usedBytes} bytes`,
    );
}

/** NVML knows processes by the pids of its own pid namespace: elsewhere none of their memory is seen. */
function untoldReasons(facts: GateFacts): string[] {
  return facts.processes
    .filter(({ vramBytes, traces }) => vramBytes === 0 && [...traces.fdsByMinor.values()].some(isContext))
    .map(
      (process) =>
        `NVML tells no memory of ${title(process)}, which has a GPU context: whether there is room for it was not checked ` +
        '(does the node worker run in the pid namespace of the host?)',
    );
}

function isContext(descriptors: number): boolean {
  return descriptors >= CONTEXT_FDS;
}

function memoryReasons(facts: GateFacts): string[] {
  const need = saveBytes(facts.processes);
  const needed = Math.ceil(need + need * MEMORY_MARGIN + MEMORY_MARGIN_BYTES);
  const free = facts.availableMemoryBytes - facts.reservedMemoryBytes;
  if (facts.processes.length === 0 || free >= needed) {
    return [];
  }
  const others = facts.reservedMemoryBytes > 0 ? ` (${facts.reservedMemoryBytes} are promised to others)` : '';
  return [
    `the node has ${Math.max(0, free)} bytes of memory left${others}, the GPU memory needs ${needed} while it is saved: ` +
      'free host memory, or let the program drop what it does not need (gpu.quiesce)',
  ];
}

/** What others were promised is as good as taken: our way back must not depend on it. */
function vramReasons(facts: GateFacts): string[] {
  const ours = new Set(facts.processes.flatMap((process) => process.devices));
  return facts.devices.flatMap(({ uuid, minor, memoryFreeBytes }) => {
    const reserved = facts.reservedVram.get(uuid) ?? 0;
    return ours.has(uuid) && reserved > memoryFreeBytes
      ? [
          `GPU ${minor} (${uuid}) has ${memoryFreeBytes} bytes free, and ${reserved} are promised to other operations, ` +
            'which would take what the way back needs: try again when they have ended',
        ]
      : [];
  });
}

function budgetReasons(facts: GateFacts): string[] {
  const estimate = restoreEstimateMs(facts.processes);
  return facts.freezeBudgetMs < estimate
    ? [
        `the freeze budget of ${facts.freezeBudgetMs} ms is less than the ${estimate} ms that the GPU memory may take to ` +
          'come back: raise freezeBudgetMs well above it',
      ]
    : [];
}

/*
 * May the GPU processes of a checkpoint run on this node, and on which of its GPUs? Answered before anything is made.
 * What the restore will take is part of the answer: it is written into the restore's record, and counts for others from
 * then on.
 */
import { freemem } from 'node:os';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { type DeviceMapInput, type GpuPair, type TargetGpu, mapDevices, movesGpus } from '../../core/gpu/device-map.ts';
import { SAVE_OVERHEAD_BYTES } from '../../core/gpu/process-state.ts';
import type { AskedGpus, GpuFit } from '../../core/oci/gpu-fit.ts';
import type { OciSpec } from '../../core/oci/spec.ts';
import { DEVICE_MAP_API_VERSION } from '../../native/cuda/codes.ts';
import type { GpuDevice, GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { type Finding, problem } from '../../core/preflight.ts';
import { compareVersions } from '../../native/criu/version.ts';
import type { NodeDeps } from '../node-deps.ts';
import { gpuNodes } from './device-nodes.ts';
import { givenGpus } from './pod-gpus.ts';

/** What other operations of this node have been promised. */
export interface Reserved {
  /** by UUID */
  readonly vram: ReadonlyMap<string, number>;
  readonly memoryBytes: number;
}

export interface GpuRestorePlan {
  /** every GPU that was visible at the dump, and the one that takes its place */
  readonly map: readonly GpuPair[];
  readonly fit: GpuFit;
  /** VRAM that comes back, by the UUID of this node's device */
  readonly vram: Readonly<Record<string, number>>;
  /** host memory that holds the VRAM until it is back on the devices, with everything else of the images */
  readonly memoryBytes: number;
}

export interface GpuRestoreWish {
  readonly map: readonly GpuPair[];
  /** UUIDs of this node's GPUs that are not to be used */
  readonly avoid?: readonly string[];
  /** specification that somebody else made for the new container, with the devices that it was given */
  readonly spec?: OciSpec;
  /** asked only where there are GPU processes */
  readonly reserved: (driver: GpuDriver) => Promise<Reserved>;
}

export interface GpuRestoreAnswer {
  /** absent without GPU processes, and with findings */
  readonly plan?: GpuRestorePlan;
  readonly findings: readonly Finding[];
}

const MARGIN = 1.1;

const refused = (message: string): Finding => problem('gpu-devices', message);

/** Without GPU processes nothing is loaded or read. */
export async function planGpuRestore(
  deps: Pick<NodeDeps, 'gpu' | 'settings' | 'podDevices'>,
  metadata: Pick<Metadata, 'gpuProcesses' | 'gpu' | 'sizes'>,
  wish: GpuRestoreWish,
): Promise<GpuRestoreAnswer> {
  if (metadata.gpuProcesses.length === 0) {
    return { findings: wish.map.length === 0 ? [] : [refused('gpuMap: the checkpoint has no GPU process')] };
  }
  const { node } = deps.settings;
  const captured = metadata.gpu;
  if (captured === undefined) {
    return { findings: [refused('it has GPU processes, and does not say on which GPUs they ran')] };
  }
  const opened = deps.gpu();
  if (opened.driver === undefined) {
    const message = `it has GPU processes, and ${node} has no NVIDIA driver: ${opened.reason}`;
    return { findings: [problem('gpu-driver', message, { recorded: captured.driver })] };
  }
  const { driver } = opened;
  const reserved = await wish.reserved(driver);
  const devices = driver.devices();
  const given = wish.spec === undefined ? {} : await givenGpus(deps, wish.spec);
  if (given.refusal !== undefined) {
    return { findings: [refused(given.refusal)] };
  }
  const asked = allowedGpus(devices, given.asked);
  const allowed = withoutAvoided(devices, asked, wish.avoid ?? []);
  const { pairs, findings: deviceFindings } = placesOn(devices, reserved, {
    captured: captured.devices,
    visible: metadata.gpuProcesses.map(({ visible }) => visible),
    wanted: wish.map,
    ...(allowed === undefined ? {} : { allowed }),
  });
  const memoryBytes = restoreMemoryBytes(metadata);
  const all = [
    ...driverReasons(driver, captured.driver, pairs),
    ...deviceFindings,
    ...memoryReasons(node, memoryBytes, reserved),
  ];
  if (all.length > 0) {
    return { findings: all };
  }
  const places = new Map(pairs.map(({ from, to }) => [from, to]));
  const minors = devices.filter(({ uuid }) => pairs.some(({ to }) => to === uuid)).map(({ minor }) => minor);
  return {
    findings: [],
    plan: {
      map: pairs,
      memoryBytes,
      fit: { nodes: gpuNodes(minors), memoryBytes, driver: { was: captured.driver, is: driver.version } },
      vram: Object.fromEntries(
        captured.devices.flatMap(({ uuid, usedBytes }) => {
          const to = places.get(uuid);
          return to === undefined || usedBytes === 0 ? [] : [[to, usedBytes]];
        }),
      ),
    },
  };
}

/** Places on the node's GPUs as they are; what empty ones would have room for lacks memory alone, and that passes. */
function placesOn(
  devices: readonly GpuDevice[],
  reserved: Reserved,
  input: Omit<DeviceMapInput, 'target'>,
): { readonly pairs: readonly GpuPair[]; readonly findings: readonly Finding[] } {
  const { pairs, reasons } = mapDevices({ ...input, target: devices.map((device) => lessReserved(device, reserved)) });
  const empty = devices.map((device) => ({ ...device, memoryFreeBytes: device.memoryTotalBytes }));
  const isFull = reasons.length > 0 && mapDevices({ ...input, target: empty }).reasons.length === 0;
  return { pairs, findings: reasons.map((message) => problem(isFull ? 'gpu-memory' : 'gpu-devices', message)) };
}

function lessReserved(device: GpuDevice, { vram }: Reserved): TargetGpu {
  return { ...device, memoryFreeBytes: device.memoryFreeBytes - (vram.get(device.uuid) ?? 0) };
}

function driverReasons(driver: GpuDriver, was: string, pairs: readonly GpuPair[]): Finding[] {
  const findings: Finding[] = [];
  if (compareVersions(majorMinor(driver.version), majorMinor(was)) < 0) {
    const message = `the NVIDIA driver ${driver.version} is older than ${was}, under which it was taken`;
    findings.push(problem('gpu-driver', message, { recorded: was, here: driver.version }));
  }
  if (movesGpus(pairs) && driver.apiVersion < DEVICE_MAP_API_VERSION) {
    const message = `the driver API ${driver.apiVersion} cannot restore onto another GPU, ${DEVICE_MAP_API_VERSION} is needed`;
    findings.push(problem('gpu-driver', message, { here: String(driver.apiVersion) }));
  }
  return findings;
}

function majorMinor(version: string): string {
  return /^\d+(?:\.\d+)?/.exec(version)?.[0] ?? '0';
}

/** The images hold the VRAM and what the driver adds to it; a memory limit counts caches of the restore too. */
export function restoreMemoryBytes({ gpuProcesses, sizes }: Pick<Metadata, 'gpuProcesses' | 'sizes'>): number {
  const saved = gpuProcesses.reduce((sum, process) => sum + process.vramBytes + SAVE_OVERHEAD_BYTES, 0);
  return Math.ceil(Math.max(sizes.imageBytes, saved) * MARGIN);
}

function memoryReasons(node: string, memoryBytes: number, reserved: Reserved): Finding[] {
  const freeBytes = Math.max(0, freemem() - reserved.memoryBytes);
  const message = `${node} has ${freeBytes} bytes of memory left, ${memoryBytes} are needed until the VRAM is back`;
  const compared = { recorded: `${memoryBytes} bytes`, here: `${freeBytes} bytes` };
  return freeBytes < memoryBytes ? [problem('memory', message, compared)] : [];
}

/** @returns UUIDs; undefined when the container may have any */
export function allowedGpus(
  devices: readonly Pick<GpuDevice, 'uuid' | 'minor' | 'index'>[],
  asked: AskedGpus | undefined,
): ReadonlySet<string> | undefined {
  if (asked === undefined) {
    return undefined;
  }
  const isAsked = ({ uuid, minor, index }: Pick<GpuDevice, 'uuid' | 'minor' | 'index'>): boolean =>
    'minors' in asked
      ? asked.minors.includes(minor)
      : asked.names.some((name) => name === uuid || name === String(index));
  return new Set(devices.filter(isAsked).map(({ uuid }) => uuid));
}

function withoutAvoided(
  devices: readonly Pick<GpuDevice, 'uuid'>[],
  allowed: ReadonlySet<string> | undefined,
  avoid: readonly string[],
): ReadonlySet<string> | undefined {
  return avoid.length === 0
    ? allowed
    : new Set(
        (allowed === undefined ? devices.map(({ uuid }) => uuid) : [...allowed]).filter(
          (uuid) => !avoid.includes(uuid),
        ),
      );
}

/** Devices that have too little memory left for what the restore brings back; asked again right before it does. */
export function shortOfVram(
  driver: GpuDriver,
  vram: Readonly<Record<string, number>>,
  reserved: Reserved,
): readonly string[] {
  const free = new Map(driver.devices().map((device) => [device.uuid, lessReserved(device, reserved).memoryFreeBytes]));
  return Object.entries(vram).flatMap(([uuid, bytes]) => {
    const freeBytes = free.get(uuid) ?? 0;
    return freeBytes < bytes ? [`GPU ${uuid} has ${Math.max(0, freeBytes)} bytes free, ${bytes} are needed`] : [];
  });
}

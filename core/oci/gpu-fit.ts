/*
 * What a container that takes over GPU processes must offer in its specification: rules (and nodes) of the devices that
 * they will use, a memory limit that holds their VRAM until it is back on the device, and the files of the driver that
 * is here. Pure; the agent decides, the wrapper carries it out.
 */
import {
  type OciDevice,
  type OciDeviceRule,
  type OciLinux,
  type OciMount,
  type OciSpec,
  bindSources,
  isBind,
} from './spec.ts';

export interface GpuNode {
  /** `/dev/nvidia<minor>`, `/dev/nvidiactl`, ...: the driver looks for exactly these names */
  readonly path: string;
  readonly major: number;
  readonly minor: number;
}

export interface GpuFit {
  /** of this node: the GPUs first, by minor, then those of the driver itself */
  readonly nodes: readonly GpuNode[];
  /** the memory limit must not be lower until the GPU state is back on the devices */
  readonly memoryBytes: number;
  /** versions of the driver, at the dump and here */
  readonly driver: { readonly was: string; readonly is: string };
}

const DRIVER_NODE = /^\/dev\/nvidia(?:\d+|ctl|-uvm|-uvm-tools)$/;
const GPU_NODE = /^\/dev\/nvidia\d+$/;
/** NV_MAJOR_DEVICE_NUMBER of the open kernel modules; 254 is modeset and 255 the control device. */
export const NVIDIA_MAJOR = 195;
const FIRST_OTHER_MINOR = 254;

/** The same without the nodes and rules of any NVIDIA GPU: its numbers are those of another node or of other GPUs. */
export function withoutGpus(linux: OciLinux): OciLinux {
  const devices = linux.devices ?? [];
  const dropped = devices.filter(({ path }) => DRIVER_NODE.test(path));
  const rules = linux.resources?.devices ?? [];
  const kept = rules.filter((rule) => !isOf(dropped, rule));
  return {
    ...linux,
    ...(dropped.length === 0 ? {} : { devices: devices.filter((device) => !dropped.includes(device)) }),
    ...(kept.length === rules.length ? {} : { resources: { ...linux.resources, devices: kept } }),
  };
}

function isOf(devices: readonly OciDevice[], rule: OciDeviceRule): boolean {
  if (!rule.allow || rule.type !== 'c' || rule.major === undefined || rule.minor === undefined) {
    return false;
  }
  const isGpu = rule.major === NVIDIA_MAJOR && rule.minor < FIRST_OTHER_MINOR;
  return isGpu || devices.some(({ major, minor }) => major === rule.major && minor === rule.minor);
}

/** Adds nodes and rules that are not there yet. */
export function withGpus(linux: OciLinux, nodes: readonly GpuNode[]): OciLinux {
  const paths = new Set((linux.devices ?? []).map(({ path }) => path));
  const rules = linux.resources?.devices ?? [];
  const allowed = (node: GpuNode): boolean =>
    rules.some(
      (rule) =>
        rule.allow &&
        rule.type === 'c' &&
        rule.major === node.major &&
        rule.minor === node.minor &&
        rule.access === 'rwm',
    );
  return {
    ...linux,
    devices: [
      ...(linux.devices ?? []),
      ...nodes.filter(({ path }) => !paths.has(path)).map((node) => ({ ...node, type: 'c' })),
    ],
    resources: {
      ...linux.resources,
      devices: [
        ...rules,
        ...nodes
          .filter((node) => !allowed(node))
          .map(({ major, minor }) => ({ allow: true, type: 'c', major, minor, access: 'rwm' })),
      ],
    },
  };
}

/** Raises the memory limit where there is one, and the sum of memory and swap by as much. */
export function withMemory(linux: OciLinux, memoryBytes: number): OciLinux {
  const limit = linux.resources?.memory?.limit;
  if (limit === undefined || limit <= 0 || limit >= memoryBytes) {
    return linux;
  }
  const swap = linux.resources?.memory?.swap;
  return {
    ...linux,
    resources: {
      ...linux.resources,
      memory: {
        ...linux.resources?.memory,
        limit: memoryBytes,
        ...(swap === undefined || swap <= 0 ? {} : { swap: swap + memoryBytes - limit }),
      },
    },
  };
}

/** Where the same file of the driver may lie here: its name holds the version; a GPU's node goes by its minor. */
function otherSource(source: string, fit: GpuFit): string | undefined {
  if (GPU_NODE.test(source)) {
    return fit.nodes.find(({ path }) => GPU_NODE.test(path))?.path;
  }
  const other = source.replaceAll(fit.driver.was, fit.driver.is);
  return other === source ? undefined : other;
}

/** Host paths whose presence decides which mounts can be made. */
export function sourcesToCheck(specs: readonly OciSpec[], hookSources: readonly string[], fit?: GpuFit): string[] {
  const sources = [...specs.flatMap(bindSources), ...hookSources];
  const others = fit === undefined ? [] : sources.flatMap((source) => otherSource(source, fit) ?? []);
  return [...new Set([...sources, ...others])];
}

/** @returns the source itself where it is there, else its counterpart; undefined when neither is */
export function presentSource(source: string, present: ReadonlySet<string>, fit?: GpuFit): string | undefined {
  if (present.has(source)) {
    return source;
  }
  const other = fit === undefined ? undefined : otherSource(source, fit);
  return other !== undefined && present.has(other) ? other : undefined;
}

/** Mounts of driver files that are here in another version get the source that is here. */
export function withDriverFiles(
  mounts: readonly OciMount[],
  present: ReadonlySet<string>,
  fit: GpuFit,
  warnings: string[],
): readonly OciMount[] {
  return mounts.map((mount) => {
    const source = isBind(mount) ? mount.source : undefined;
    const found = source === undefined ? undefined : presentSource(source, present, fit);
    if (found === undefined || found === source) {
      return mount;
    }
    warnings.push(
      `mount ${mount.destination}: ${source} is not on this node, ${found} takes its place; CRIU refuses it where a ` +
        'process has the file mapped',
    );
    return { ...mount, source: found };
  });
}

/**
 * Mounts that hooks of the source made without a word in its specification: CRIU took them as external under the name of
 * their destination, and wants to know where each lies here.
 */
export function hookMountLines(
  mounts: readonly { readonly destination: string; readonly source: string }[],
  here: { readonly presentSources: ReadonlySet<string>; readonly gpu?: GpuFit },
  reasons: string[],
  warnings: string[],
): readonly string[] {
  return mounts.flatMap(({ destination, source }) => {
    const found = presentSource(source, here.presentSources, here.gpu);
    if (found === undefined) {
      reasons.push(`mount ${destination}, made by a hook of the source: ${source} does not exist on this node`);
      return [];
    }
    // The format of CRIU's configuration knows no escape for these.
    if (/[\s#"\\]/.test(destination + found)) {
      reasons.push(`mount ${destination}, made by a hook of the source: its name cannot be told to CRIU`);
      return [];
    }
    if (found !== source) {
      warnings.push(`mount ${destination}, made by a hook of the source: ${found} takes the place of ${source}`);
    }
    return [`external mnt[${destination}]:${found}`];
  });
}

export type AskedGpus = { readonly minors: readonly number[] } | { readonly names: readonly string[] };

/**
 * The GPUs that a container was given by its creator: by its device nodes, else by NVIDIA_VISIBLE_DEVICES (indexes or
 * UUIDs).
 * @returns undefined when nothing is said, or all are meant
 */
export function askedGpus(spec: OciSpec): AskedGpus | undefined {
  const minors = (spec.linux?.devices ?? [])
    .filter(({ path }) => GPU_NODE.test(path))
    .map(({ path, minor }) => minor ?? Number(path.slice('/dev/nvidia'.length)));
  if (minors.length > 0) {
    return { minors };
  }
  const prefix = 'NVIDIA_VISIBLE_DEVICES=';
  const value = (spec.process?.env ?? []).findLast((entry) => entry.startsWith(prefix))?.slice(prefix.length);
  const names = (value ?? '').split(',').filter((name) => name !== '');
  return names.length === 0 || ['all', 'none', 'void'].includes(names[0] ?? '') ? undefined : { names };
}

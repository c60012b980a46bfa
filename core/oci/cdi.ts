/*
 * The part of a CDI specification (Container Device Interface) that describes NVIDIA GPUs, as nvidia-ctk writes it to
 * /etc/cdi or /var/run/cdi. Source: CNCF CDI, SPEC.md, version 0.8.
 *
 * Of its hooks those run that write files of the container alone (links, the cache of the loader): the files are in the
 * rw layer, hence in a checkpoint. One that would mount something is left out: runc does not know its mount, and no
 * checkpoint could be made. Where the hook's program is not installed, mounts and LD_LIBRARY_PATH stand in for it.
 */
import { KybernateError } from '../errors.ts';
import { type DriverGpu, driverMount, gpuNamed, unknownGpus } from './driver-edits.ts';
import type { GpuNode } from './gpu-fit.ts';
import type { GpuEdits, GpuWish } from './gpu-spec.ts';
import type { OciHook, OciMount } from './spec.ts';

const CDI_KIND = 'nvidia.com/gpu';

interface CdiNode {
  readonly path: string;
  readonly hostPath?: string;
  readonly type?: string;
  readonly major?: number;
  readonly minor?: number;
}

interface CdiHook {
  readonly hookName: string;
  readonly path: string;
  readonly args?: readonly string[];
  readonly env?: readonly string[];
  readonly timeout?: number;
}

interface CdiEdits {
  readonly env?: readonly string[];
  readonly deviceNodes?: readonly CdiNode[];
  readonly mounts?: ReadonlyArray<{
    readonly hostPath: string;
    readonly containerPath: string;
    readonly options?: readonly string[];
  }>;
  readonly hooks?: readonly CdiHook[];
}

export interface CdiSpec {
  readonly kind: string;
  readonly devices: ReadonlyArray<{ readonly name: string; readonly containerEdits?: CdiEdits }>;
  /** for every container that gets one of the devices */
  readonly containerEdits?: CdiEdits;
}

export interface CdiHost {
  /** a device node's numbers; undefined when there is no such character device */
  readonly node: (path: string) => { readonly major: number; readonly minor: number } | undefined;
  readonly exists: (path: string) => boolean;
  /** names of the links beside a file that lead to it */
  readonly links: (path: string) => readonly string[];
  /** as the driver itself lists them: a UUID stands for an index, and the reverse; empty when it cannot be asked */
  readonly gpus: readonly DriverGpu[];
}

/** Hooks of nvidia-cdi-hook that write files and mount nothing. */
const FILE_HOOKS: ReadonlySet<string> = new Set([
  'create-symlinks',
  'create-soname-symlinks',
  'update-ldcache',
  'enable-cuda-compat',
  'chmod',
]);

/**
 * @param value the file's content, parsed
 * @returns undefined for devices of another kind
 * @throws InvalidInput it is no CDI specification
 */
export function parseCdi(value: unknown, origin: string): CdiSpec | undefined {
  const { kind, devices } = (typeof value === 'object' && value !== null ? value : {}) as Partial<CdiSpec>;
  if (typeof kind !== 'string') {
    throw new KybernateError('InvalidInput', `${origin} is no CDI specification: it has no kind`);
  }
  if (kind !== CDI_KIND) {
    return undefined;
  }
  if (!Array.isArray(devices) || devices.some((device: { name?: unknown } | null) => device?.name === undefined)) {
    throw new KybernateError('InvalidInput', `${origin} is no CDI specification: devices must be a list of names`);
  }
  const { containerEdits } = value as CdiSpec;
  return {
    kind,
    // YAML reads the name 0 as a number
    devices: (devices as ReadonlyArray<{ name: string | number; containerEdits?: CdiEdits }>).map((device) => ({
      ...device,
      name: String(device.name),
    })),
    ...(containerEdits === undefined ? {} : { containerEdits }),
  };
}

/**
 * @param specs in the order of their precedence: a device of the same name in a later one takes the place
 * @returns undefined when they describe no device at all
 * @throws Incompatible a GPU is named that they do not describe, or one of its nodes is missing
 */
export function cdiEdits(
  specs: readonly CdiSpec[],
  wish: GpuWish,
  host: CdiHost,
  warnings: string[],
): GpuEdits | undefined {
  const devices = new Map(
    specs.flatMap((spec) => spec.devices.map(({ name, containerEdits = {} }) => [name, { spec, containerEdits }])),
  );
  if (devices.size === 0) {
    return undefined;
  }
  const names = chosenNames([...devices.keys()], wish, host.gpus);
  const chosen = names.flatMap((name) => devices.get(name) ?? []);
  const common = [...new Set(chosen.map(({ spec }) => spec))].map(({ containerEdits = {} }) => containerEdits);
  const edits = [...chosen.map(({ containerEdits }) => containerEdits), ...common];
  const hooks = edits.flatMap((edit) => edit.hooks ?? []);
  const { kept, libraryDirs } = chosenHooks(hooks, host, warnings);
  const links = libraryDirs !== undefined;
  return {
    nodes: unique(edits.flatMap(({ deviceNodes = [] }) => deviceNodes.map((node) => nodeOf(node, host)))),
    mounts: edits.flatMap(({ mounts = [] }) => mounts.flatMap((mount) => mountsOf(mount, links ? host : undefined))),
    env: edits.flatMap(({ env = [] }) => env),
    libraryDirs: libraryDirs ?? [],
    hooks: kept,
  };
}

/** Names of devices: of every GPU, or of those that are asked for by index or UUID. */
function chosenNames(there: readonly string[], wish: GpuWish, gpus: readonly DriverGpu[]): readonly string[] {
  if (wish.gpus === 'all') {
    const single = there.filter((name) => /^\d+$/.test(name));
    return there.includes('all') ? ['all'] : single.length > 0 ? single : there;
  }
  const found = wish.gpus.map((name) => {
    const gpu = gpuNamed(gpus, name);
    const names = [name, gpu?.uuid, gpu === undefined ? undefined : String(gpus.indexOf(gpu))];
    return there.find((candidate) => names.includes(candidate));
  });
  const missing = wish.gpus.filter((_name, index) => found[index] === undefined);
  if (missing.length > 0) {
    throw unknownGpus(wish, missing, `${there.join(', ')} (CDI)`);
  }
  return [...new Set(found.filter((name) => name !== undefined))];
}

function nodeOf(node: CdiNode, host: CdiHost): GpuNode {
  const { path, hostPath = path, major, minor } = node;
  const found = major === undefined || minor === undefined ? host.node(hostPath) : { major, minor };
  if (found === undefined) {
    throw new KybernateError(
      'Incompatible',
      `CDI names the device ${hostPath}, which is not there: write its specification again (nvidia-ctk cdi generate)`,
    );
  }
  return { path, major: found.major, minor: found.minor };
}

function unique(nodes: readonly GpuNode[]): readonly GpuNode[] {
  return [...new Map(nodes.map((node) => [node.path, node])).values()];
}

/** @param host given where no hook makes the links to a library: it is mounted by their names, too */
function mountsOf(
  { hostPath, containerPath, options }: NonNullable<CdiEdits['mounts']>[number],
  host: CdiHost | undefined,
): readonly OciMount[] {
  const mount: OciMount = { ...driverMount(hostPath, containerPath), ...(options === undefined ? {} : { options }) };
  const dir = containerPath.slice(0, containerPath.lastIndexOf('/'));
  const names = /\.so\.[\d.]+$/.test(containerPath) ? (host?.links(hostPath) ?? []) : [];
  return [mount, ...names.map((name) => ({ ...mount, destination: `${dir}/${name}` }))].map(privately);
}

/** Without it a mount of the host that comes later would show in the container, and CRIU would not find it. */
function privately(mount: OciMount): OciMount {
  const options = mount.options ?? [];
  const shared = options.some((option) => /^r?(?:shared|slave|private|unbindable)$/.test(option));
  const bind = options.some((option) => option === 'bind' || option === 'rbind');
  return { ...mount, options: [...options, ...(bind ? [] : ['bind']), ...(shared ? [] : ['rprivate'])] };
}

/** @returns `libraryDirs` when the loader's cache is not written and no links are made */
function chosenHooks(
  hooks: readonly CdiHook[],
  host: CdiHost,
  warnings: string[],
): { kept: Record<string, OciHook[]>; libraryDirs?: readonly string[] } {
  const kept: Record<string, OciHook[]> = {};
  const dirs: string[] = [];
  for (const { hookName, ...hook } of hooks) {
    const command = commandOf(hook);
    if (!FILE_HOOKS.has(command)) {
      warnings.push(`CDI hook ${command} is left out: what it mounts could not be checkpointed`);
    } else if (host.exists(hook.path)) {
      (kept[hookName] ??= []).push(hook);
    } else if (command === 'update-ldcache') {
      dirs.push(...(hook.args ?? []).filter((_arg, index, args) => args[index - 1] === '--folder'));
    }
  }
  return { kept, ...(dirs.length === 0 ? {} : { libraryDirs: [...new Set(dirs)] }) };
}

/** `nvidia-cdi-hook update-ldcache ...`, or `nvidia-ctk hook update-ldcache ...`. */
function commandOf({ path, args = [] }: Omit<CdiHook, 'hookName'>): string {
  return args.slice(1).find((word) => word !== 'hook' && !word.startsWith('-')) ?? path;
}

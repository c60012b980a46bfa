/*
 * GPUs for a container that starts afresh: what its specification asks for, and the specification with device nodes,
 * device rules and driver files added. They become mounts and devices of the specification, not of a hook: only what the
 * specification names is known to `runc checkpoint`. Fields that are not named here travel through unchanged, and what
 * is given once is not given again.
 */
import { ANNOTATIONS, criAnnotation, isSandbox } from './annotations.ts';
import { type GpuNode, withGpus } from './gpu-fit.ts';
import type { OciHook, OciMount, OciSpec } from './spec.ts';

export interface GpuWish {
  /** indices in the order of the PCI bus, or UUIDs, as nvidia-smi shows them */
  readonly gpus: 'all' | readonly string[];
  readonly origin: string;
}

/** What is added to a specification. */
export interface GpuEdits {
  readonly nodes: readonly GpuNode[];
  readonly mounts: readonly OciMount[];
  /** `NAME=value`; replaces a variable of the same name */
  readonly env: readonly string[];
  /** directories of libraries that the container's loader does not search by itself */
  readonly libraryDirs: readonly string[];
  /** kind of hook (`createContainer`, ...) to its hooks, in order */
  readonly hooks: Readonly<Record<string, readonly OciHook[]>>;
}

/** Of the NVIDIA container runtime and its images; `void` stands in every specification that CDI has edited. */
const VISIBLE_DEVICES = 'NVIDIA_VISIBLE_DEVICES';
const UUID = /^GPU-[0-9a-fA-F-]{36}$/;
const NO_GPUS: ReadonlySet<string> = new Set(['', 'void', 'none']);

/** The driver's libraries and devices are there already: CDI, a device list of the caller, or we have been here. */
const DRIVER_FILE = /^\/dev\/nvidia|\/libcuda\.so(?:\.|$)/;

/**
 * Undefined when the specification asks for no GPU, or has what it asks for; always for the sandbox of a pod, which gets
 * the pod's annotations too. An annotation counts more than the variable, which CUDA images set by themselves.
 * In a pod only UUIDs in the variable count, which is how a device plug-in names what kubelet has given: `all` is in every
 * CUDA image, and whoever may write an annotation has not been given a GPU by it.
 */
export function gpuWish(spec: OciSpec): GpuWish | undefined {
  const annotations = spec.annotations ?? {};
  if (isSandbox(spec) || hasDriver(spec)) {
    return undefined;
  }
  const visible = variable(spec, VISIBLE_DEVICES) ?? '';
  const origin = `variable ${VISIBLE_DEVICES}`;
  if (criAnnotation(spec, 'containerName') !== undefined) {
    return parseWish(visible.split(',').every((word) => UUID.test(word.trim())) ? visible : '', origin);
  }
  const annotated = annotations[ANNOTATIONS.gpus];
  return annotated === undefined ? parseWish(visible, origin) : parseWish(annotated, `annotation ${ANNOTATIONS.gpus}`);
}

function parseWish(text: string, origin: string): GpuWish | undefined {
  const words = text
    .split(',')
    .map((word) => word.trim())
    .filter((word) => !NO_GPUS.has(word));
  if (words.length === 0) {
    return undefined;
  }
  return { gpus: words.includes('all') ? 'all' : [...new Set(words)], origin };
}

function hasDriver({ mounts = [], linux = {} }: OciSpec): boolean {
  const paths = [...mounts.map((mount) => mount.destination), ...(linux.devices ?? []).map((device) => device.path)];
  return paths.some((path) => DRIVER_FILE.test(path));
}

/** The last one counts, as it would for the process. */
function variable(spec: OciSpec, name: string): string | undefined {
  const prefix = `${name}=`;
  return (spec.process?.env ?? []).findLast((entry) => entry.startsWith(prefix))?.slice(prefix.length);
}

/** Idempotent. Hooks of NVIDIA's runtime are dropped: what they would mount is there, and would be there twice. */
export function withGpuEdits(spec: OciSpec, edits: GpuEdits): OciSpec {
  const taken = new Set((spec.mounts ?? []).map((mount) => mount.destination));
  const hooks = withHooks(withoutNvidiaHooks(spec.hooks ?? {}), edits.hooks);
  return {
    ...spec,
    mounts: [...(spec.mounts ?? []), ...edits.mounts.filter((mount) => !taken.has(mount.destination))],
    process: { ...spec.process, env: withVariables(spec, edits) },
    ...(Object.keys(hooks).length === 0 && spec.hooks === undefined ? {} : { hooks }),
    linux: withGpus(spec.linux ?? {}, edits.nodes),
  };
}

/** Nobody else may give GPUs again: a runtime behind us (nvidia-container-runtime as runc) reads the variable too. */
function withVariables(spec: OciSpec, edits: GpuEdits): readonly string[] {
  const dirs = (variable(spec, 'LD_LIBRARY_PATH') ?? '').split(':').filter((dir) => dir !== '');
  const more = edits.libraryDirs.filter((dir) => !dirs.includes(dir));
  const added = [
    ...edits.env,
    `${VISIBLE_DEVICES}=void`,
    // Behind those of the image: its own libraries come first.
    ...(more.length === 0 ? [] : [`LD_LIBRARY_PATH=${[...dirs, ...more].join(':')}`]),
  ];
  const names = new Set(added.map(nameOf));
  return [...(spec.process?.env ?? []).filter((entry) => !names.has(nameOf(entry))), ...new Set(added)];
}

function nameOf(entry: string): string {
  return entry.split('=', 1)[0] ?? entry;
}

type Hooks = Readonly<Record<string, readonly OciHook[]>>;

function withoutNvidiaHooks(hooks: Hooks): Hooks {
  return Object.fromEntries(
    Object.entries(hooks).map(([kind, list]) => [
      kind,
      list.filter((hook) => ![hook.path, ...(hook.args ?? [])].some((word) => word.includes('nvidia'))),
    ]),
  );
}

function withHooks(hooks: Hooks, more: Hooks): Hooks {
  const merged = { ...hooks };
  for (const [kind, list] of Object.entries(more)) {
    merged[kind] = [...(merged[kind] ?? []), ...list];
  }
  return merged;
}

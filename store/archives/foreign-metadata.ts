/*
 * What our metadata say of a container that another engine checkpointed: read from its config.dump, its specification and
 * CRIU's images. What nobody wrote down is left out, or said to be unknown; a preflight then tells that it cannot compare.
 */
import { METADATA_VERSION, type Metadata } from '../../core/checkpoint/metadata.ts';
import type { ImageProcess } from '../../core/checkpoint/criu-image.ts';
import { containerId } from '../../core/contract/common.ts';
import { CHECKPOINT_ID_PATTERN } from '../../core/ids.ts';
import { CRIU_OPTIONS } from '../../core/oci/criu-options.ts';
import { type ForeignFormat, type ForeignSpec, type ForeignSpecInput, OWN_LAYER } from '../../core/oci/foreign-spec.ts';
import { isBind, type OciSpec } from '../../core/oci/spec.ts';
import { refused } from './limits.ts';

const UNKNOWN = 'unknown';
const SHA256 = /^[0-9a-f]{64}$/;

type Config = Readonly<Record<string, unknown>>;

/** Who wrote it, told by its specification. */
export function formatOf(spec: OciSpec): ForeignFormat {
  const manager = spec.annotations?.['io.container.manager'];
  return manager === 'libpod' ? 'podman' : manager === 'cri-o' ? 'cri-o' : 'containerd';
}

/** @throws CheckpointCorrupt it is none that a container may have */
export function containerIdOf(config: Config): string {
  const parsed = containerId.safeParse(config['id']);
  if (!parsed.success) {
    throw refused(`config.dump: ${JSON.stringify(config['id'] ?? null)} is no container id`, { file: 'config.dump' });
  }
  return parsed.data;
}

/** Named volumes of Podman: name and where they are mounted. @throws CheckpointCorrupt */
export function namedVolumes(config: Config): ReadonlyArray<{ readonly name: string; readonly destination: string }> {
  const list = config['namedVolumes'] ?? [];
  if (!Array.isArray(list)) {
    throw refused('config.dump: namedVolumes is no list', { file: 'config.dump' });
  }
  return list.map((entry: unknown) => {
    const name = fieldOf(entry, 'volumeName');
    const destination = fieldOf(entry, 'dest');
    if (name === undefined || destination === undefined || !destination.startsWith('/') || name.includes('/')) {
      throw refused('config.dump: a volume without a name or a destination', { file: 'config.dump' });
    }
    return { name, destination: destination.replace(/(?<=.)\/+$/, '') };
  });
}

/** The image of its root file system. */
export function imageOf(config: Config, format: ForeignFormat): NonNullable<Metadata['origin']>['image'] {
  const name = fieldOf(config, 'rootfsImageName') ?? fieldOf(config, 'rootfsImage');
  const id = format === 'podman' ? fieldOf(config, 'rootfsImageID') : fieldOf(config, 'rootfsImageRef');
  const hex = id?.replace(/^sha256:/, '') ?? '';
  return name === undefined ? undefined : { name, ...(SHA256.test(hex) ? { configDigest: `sha256:${hex}` } : {}) };
}

/** `<container>-<first digits of the root>`: the same archive has the same id. */
export function derivedCheckpointId(config: Config, root: string): string {
  const name = (fieldOf(config, 'name') ?? fieldOf(config, 'id') ?? 'imported')
    .toLowerCase()
    .replaceAll(/[^a-z0-9-]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, 80);
  const id = `${name}-${root.slice(0, 8)}`;
  return CHECKPOINT_ID_PATTERN.test(id) ? id : `imported-${root.slice(0, 8)}`;
}

export interface ForeignFacts {
  readonly format: ForeignFormat;
  readonly form: 'archive' | 'oci-image';
  readonly checkpointId: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly config: Config;
  /** as the archive has it */
  readonly original: OciSpec;
  readonly cleaned: ForeignSpec;
  readonly sourceKind: ForeignSpecInput['sourceKind'];
  readonly tree: readonly ImageProcess[];
  /** by pid in the container */
  readonly commands: ReadonlyMap<number, string>;
  readonly arch: string;
  /** content of descriptors.json, where runc keeps what its standard streams were */
  readonly descriptors: readonly string[];
  /** s since 1970; 0 when the archive does not say */
  readonly dumpedAtS: number;
  readonly deletedFiles: number;
  readonly sizes: Metadata['sizes'];
  readonly merkleRoot: string;
  readonly missing: readonly string[];
  readonly carried: readonly string[];
  readonly warnings: readonly string[];
}

export function foreignMetadata(facts: ForeignFacts): Metadata {
  const { format, form, config, original, cleaned, checkpointId } = facts;
  const image = imageOf(config, format);
  return {
    version: METADATA_VERSION,
    checkpointId,
    createdAt: createdAt(config, facts.dumpedAtS),
    labels: { ...facts.labels },
    container: {
      id: containerIdOf(config),
      namespace: facts.namespace,
      runtime: fieldOf(config, 'runtime') ?? UNKNOWN,
      labels: stringsOf(config['labels']),
      ...containerCreatedAt(config),
      ...podOf(original),
    },
    node: {
      name: UNKNOWN,
      hostname: UNKNOWN,
      kernel: UNKNOWN,
      arch: facts.arch,
      cpuModel: UNKNOWN,
      cpuFlags: [],
      cgroupVersion: 2,
      criuVersion: UNKNOWN,
      runcVersion: UNKNOWN,
      containerdVersion: UNKNOWN,
    },
    capture: {
      engine: 'runc',
      method: 'criu',
      tcp: 'keep',
      after: 'stop',
      // Its options are not recorded; what these allow is not done unless the images have it.
      criuOptions: [CRIU_OPTIONS.externalUnixSockets, CRIU_OPTIONS.fileLocks].map(({ runc }) => ({
        option: runc.replace(/^--/, ''),
        reason: 'the archive does not say with which options it was dumped',
      })),
      phases: { freezeMs: 0, totalMs: 0, unaccountedMs: 0, parts: {} },
    },
    processes: processesOf(facts),
    gpuProcesses: [],
    stdio: stdioOf(original, facts.descriptors),
    mounts: mountsOf(cleaned.spec, facts.sourceKind),
    rootfs: { method: 'overlay', deletedFiles: facts.deletedFiles },
    sizes: facts.sizes,
    merkleRoot: facts.merkleRoot,
    origin: {
      format,
      form,
      ...(image === undefined ? {} : { image }),
      specChanges: [...cleaned.changes],
      missing: [...facts.missing],
      carried: [...facts.carried],
    },
    warnings: [...facts.warnings],
  };
}

/** Go's zero time is the year 1. */
function createdAt(config: Config, dumpedAtS: number): string {
  const told = Date.parse(fieldOf(config, 'checkpointedTime') ?? '');
  const ms = told > 0 ? told : dumpedAtS * 1000;
  return new Date(Number.isSafeInteger(ms) && ms > 0 && ms < 8.64e15 ? ms : 0).toISOString();
}

function containerCreatedAt(config: Config): { createdAt?: string } {
  const ms = Date.parse(fieldOf(config, 'createdTime') ?? '');
  return ms > 0 ? { createdAt: new Date(ms).toISOString() } : {};
}

function processesOf({ tree, commands }: ForeignFacts): Metadata['processes'] {
  // Which pids they had on their host is in no archive: those of the container stand in their place.
  return tree.map(({ nsPid, parentNsPid, threads }) => ({
    hostPid: nsPid,
    nsPid,
    parentHostPid: parentNsPid,
    command: commands.get(nsPid) ?? '',
    threads,
  }));
}

function stdioOf(spec: OciSpec, descriptors: readonly string[]): Metadata['stdio'] {
  const [stdin, stdout, stderr] = [0, 1, 2].map((fd) => streamKind(descriptors[fd]));
  return {
    terminal: spec.process?.terminal ?? false,
    stdin: stdin ?? UNKNOWN,
    stdout: stdout ?? UNKNOWN,
    stderr: stderr ?? UNKNOWN,
  };
}

function streamKind(target: string | undefined): string {
  if (target === undefined) {
    return UNKNOWN;
  }
  return target === '/dev/null' ? 'null' : (/^(pipe|socket):/.exec(target)?.[1] ?? 'file');
}

function mountsOf(spec: OciSpec, sourceKind: ForeignSpecInput['sourceKind']): Metadata['mounts'] {
  return (spec.mounts ?? []).map((mount) => {
    const source = mount.source ?? '';
    const captured = !isBind(mount) || source.startsWith(OWN_LAYER);
    const kind = captured || sourceKind === undefined ? undefined : (sourceKind(source) ?? 'absent');
    return {
      destination: mount.destination,
      type: mount.type ?? '',
      source,
      options: [...(mount.options ?? [])],
      captured,
      ...(kind === undefined || kind === 'other' ? {} : { sourceKind: kind }),
    };
  });
}

/** The pod that it was in, by the annotations of containerd's and CRI-O's CRI. */
function podOf({ annotations = {} }: OciSpec): Pick<Metadata['container'], 'pod'> {
  const pick = (...keys: string[]): string | undefined =>
    keys.map((key) => annotations[key]).find((value) => value !== undefined && value !== '');
  const namespace = pick('io.kubernetes.cri.sandbox-namespace', 'io.kubernetes.pod.namespace');
  const name = pick('io.kubernetes.cri.sandbox-name', 'io.kubernetes.pod.name');
  const container = pick('io.kubernetes.cri.container-name', 'io.kubernetes.container.name');
  const uid = pick('io.kubernetes.cri.sandbox-uid', 'io.kubernetes.pod.uid');
  if (namespace === undefined || name === undefined || container === undefined) {
    return {};
  }
  return { pod: { namespace, name, container, ...(uid === undefined ? {} : { uid }) } };
}

function stringsOf(value: unknown): Record<string, string> {
  const entries = typeof value === 'object' && value !== null ? Object.entries(value) : [];
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
}

/** A text that is not empty. */
export function fieldOf(value: unknown, key: string): string | undefined {
  const found: unknown =
    typeof value === 'object' && value !== null ? Object.getOwnPropertyDescriptor(value, key)?.value : undefined;
  return typeof found === 'string' && found !== '' ? found : undefined;
}

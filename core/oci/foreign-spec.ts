/*
 * The specification of a container that another engine made, fit for a restore by this one. What only made sense beside
 * that engine goes or gets a place of its own; every change is told, the original stays in the checkpoint. Pure.
 *
 * CRIU asks for a source of every bind mount that the images have, so none may just be left out. A mount whose source
 * belongs to the engine (its resolv.conf, its /dev/shm) or to a volume of the archive gets a source in the container's own
 * layer: the bundle's `rootfs/<destination>`, which runc takes relative to the bundle.
 */
import { powersOf } from './foreign-powers.ts';
import { type OciMount, type OciSpec, isBind } from './spec.ts';

export type ForeignFormat = 'podman' | 'cri-o' | 'containerd';

export interface SpecChange {
  /** for example `mounts[/etc/hosts]` */
  readonly field: string;
  readonly why: string;
}

/** What has to lie in the container's layer for a mount to come from there. */
export interface LayerPlace {
  /** relative to the root, without a leading slash */
  readonly name: string;
  readonly kind: 'file' | 'directory';
  /** octal permissions */
  readonly mode: number;
  readonly text: string;
}

export interface ForeignSpecInput {
  readonly spec: OciSpec;
  readonly container: { readonly namespace: string; readonly id: string };
  /** destinations of volumes whose content the archive has */
  readonly volumes: ReadonlySet<string>;
  /** what lies at a path of the node that takes it; absent where it is taken by a store */
  readonly sourceKind?: (path: string) => 'file' | 'directory' | 'other' | undefined;
  /** user's mounts whose source is not there: left as they are, or an empty place of the same name */
  readonly missingMounts: 'keep' | 'empty';
}

export interface ForeignSpec {
  readonly spec: OciSpec;
  readonly changes: readonly SpecChange[];
  readonly places: readonly LayerPlace[];
  readonly warnings: readonly string[];
}

/** Prefix of a mount source that lies in the container's own layer. */
export const OWN_LAYER = 'rootfs/';

/** A source below the bundle's root: it is there when the layer is unpacked. */
export function isOwnLayer(source: string): boolean {
  return source.startsWith(OWN_LAYER) && !source.split('/').includes('..');
}

/** Made by the engine for each container, gone with it. */
export const ENGINE_MOUNTS: Readonly<Record<string, Omit<LayerPlace, 'name'>>> = {
  '/etc/resolv.conf': { kind: 'file', mode: 0o644, text: '' },
  '/etc/hosts': { kind: 'file', mode: 0o644, text: '127.0.0.1\tlocalhost\n::1\tlocalhost\n' },
  '/etc/hostname': { kind: 'file', mode: 0o644, text: '' },
  '/etc/passwd': { kind: 'file', mode: 0o644, text: '' },
  '/etc/group': { kind: 'file', mode: 0o644, text: '' },
  '/etc/localtime': { kind: 'file', mode: 0o644, text: '' },
  '/run/.containerenv': { kind: 'file', mode: 0o700, text: '' },
  '/dev/termination-log': { kind: 'file', mode: 0o666, text: '' },
  '/dev/shm': { kind: 'directory', mode: 0o1777, text: '' },
  '/run/secrets': { kind: 'directory', mode: 0o755, text: '' },
  '/var/run/secrets/kubernetes.io/serviceaccount': { kind: 'directory', mode: 0o755, text: '' },
};

/** Below these an engine keeps what it makes for a container; a mount of a user's own file of such a name stays. */
const ENGINE_DIRS =
  /\/(?:overlay-containers|vfs-containers|btrfs-containers|containers\/storage|io\.containerd\.[^/]+|libpod|crio|kubelet\/pods|containerd)\//;

/** The only places below /proc that a runtime lets a mount cover. Source: runc, libcontainer/rootfs_linux.go. */
const SAFE_PROC =
  /^\/proc(?:\/(?:cpuinfo|diskstats|meminfo|stat|swaps|uptime|loadavg|slabinfo|sys\/kernel\/ns_last_pid|sys\/crypto\/fips_enabled))?$/;

const FOREIGN_ANNOTATIONS = ['io.container.manager', 'io.podman.', 'io.kubernetes.cri-o.'];
/**
 * Words to a runtime, which an archive must not have. `org.criu.config` names a file that CRIU reads as its configuration: one
 * in the container's own layer may name a program, which CRIU runs as root on the node.
 * Source: runc, docs/checkpoint-restore.md and docs/systemd.md; crun, crun.1.
 */
const COMMANDING_ANNOTATIONS = ['org.criu.', 'org.systemd.property.', 'run.oci.', 'kybernate.io/'];
/** devshm-checkpoint.tar is unpacked into what is mounted here, by root. */
const SHM = '/dev/shm';

export function cleanSpec(input: ForeignSpecInput): ForeignSpec {
  const { spec, container } = input;
  const changes: SpecChange[] = [];
  const warnings: string[] = [];
  const change = (field: string, why: string): void => {
    changes.push({ field, why });
  };
  if (spec.root?.path !== 'rootfs') {
    change(
      'root.path',
      `${spec.root?.path ?? 'nothing'} is a directory of its engine: the root is the bundle's rootfs`,
    );
  }
  const hooks = Object.entries(spec.hooks ?? {}).flatMap(([kind, list]) => list.map(({ path }) => `${kind} ${path}`));
  if (hooks.length > 0) {
    change('hooks', `programs of the host that an archive must not name: ${hooks.join(', ')}`);
  }
  const cgroupsPath = `/${container.namespace}/${container.id}`;
  if (spec.linux?.cgroupsPath !== undefined) {
    change('linux.cgroupsPath', `${spec.linux.cgroupsPath} belongs to its engine: now ${cgroupsPath}`);
  }
  const { mounts, places } = cleanMounts(input, change, warnings);
  warnings.push(...powersOf({ ...spec, mounts }, input.sourceKind));
  for (const { type, path } of spec.linux?.namespaces ?? []) {
    if (path !== undefined && path !== '' && (type === 'network' || type === 'pid')) {
      warnings.push(`its ${type} namespace was ${path}: name one for the restore when that is gone`);
    }
  }
  const { hooks: _hooks, ...kept } = spec;
  return {
    spec: {
      ...kept,
      root: { ...spec.root, path: 'rootfs' },
      mounts,
      annotations: cleanAnnotations(spec, change),
      linux: { ...spec.linux, cgroupsPath, ...cleanPaths(input, change) },
    },
    changes,
    places,
    warnings,
  };
}

function cleanAnnotations(spec: OciSpec, change: (field: string, why: string) => void): Record<string, string> {
  const kept = Object.entries(spec.annotations ?? {}).filter(([key]) => {
    const foreign = FOREIGN_ANNOTATIONS.some((prefix) => key.startsWith(prefix));
    const commanding = COMMANDING_ANNOTATIONS.some((prefix) => key.startsWith(prefix));
    if (foreign || commanding) {
      const why = foreign ? 'its engine knew it by this' : 'it would tell the runtime of this node what to do';
      change(`annotations[${key}]`, why);
    }
    return !foreign && !commanding;
  });
  return Object.fromEntries(kept);
}

function cleanMounts(
  input: ForeignSpecInput,
  change: (field: string, why: string) => void,
  warnings: string[],
): { mounts: OciMount[]; places: LayerPlace[] } {
  const places: LayerPlace[] = [];
  const mounts = (input.spec.mounts ?? []).flatMap((mount) => {
    const destination = normalized(mount.destination);
    const field = `mounts[${destination}]`;
    if (destination.split('/').includes('..') || !destination.startsWith('/') || /[\0\n]/.test(destination)) {
      change(field, 'its destination is no clean absolute path: left out');
      return [];
    }
    if (/^\/proc(?:\/|$)/.test(destination) && mount.type !== 'proc' && !SAFE_PROC.test(destination)) {
      change(field, 'a mount inside /proc, which a runtime refuses: left out');
      return [];
    }
    if (isBind(mount) && mount.source?.startsWith('/') !== true) {
      change(field, `its source ${mount.source ?? ''} is no absolute path: left out`);
      return [];
    }
    const place = isBind(mount) ? placeFor(input, mount, destination) : undefined;
    if (place === undefined) {
      const source = isBind(mount) ? mount.source : undefined;
      if (source !== undefined && input.sourceKind !== undefined && input.sourceKind(source) === undefined) {
        warnings.push(`mount ${destination}: its source ${source} is not here, and the archive does not have it`);
      }
      return [mount];
    }
    change(field, place.why);
    places.push(place.place);
    return [{ ...mount, source: `${OWN_LAYER}${place.place.name}` }];
  });
  return { mounts, places };
}

function placeFor(
  { spec, volumes, sourceKind, missingMounts }: ForeignSpecInput,
  { source = '' }: OciMount,
  destination: string,
): { place: LayerPlace; why: string } | undefined {
  const name = destination.slice(1);
  const known = ENGINE_MOUNTS[destination];
  if (volumes.has(destination)) {
    const place: LayerPlace = { name, kind: 'directory', mode: 0o755, text: '' };
    return { place, why: `${source} is a volume of its engine: its content is in the container's own layer now` };
  }
  if (known !== undefined && (ENGINE_DIRS.test(source) || destination === SHM)) {
    const text = destination === '/etc/hostname' ? `${spec.hostname ?? 'localhost'}\n` : known.text;
    return {
      place: { ...known, text, name },
      why: `${source} is a ${known.kind} of its engine: a new one in its own layer`,
    };
  }
  if (missingMounts === 'empty' && sourceKind !== undefined && sourceKind(source) === undefined) {
    const place = known === undefined ? ({ kind: 'directory', mode: 0o755, text: '' } as const) : known;
    return {
      place: { ...place, name },
      why: `${source} is not here: an empty ${place.kind} in its place, as asked for`,
    };
  }
  return undefined;
}

/** Paths of this kernel that are not there; the last one stays, since a restore has masked mounts or it has none. */
function cleanPaths(
  { spec, sourceKind }: ForeignSpecInput,
  change: (field: string, why: string) => void,
): Partial<Record<'maskedPaths' | 'readonlyPaths', readonly string[]>> {
  const clean = (key: 'maskedPaths' | 'readonlyPaths'): readonly string[] | undefined => {
    const all = spec.linux?.[key];
    if (all === undefined || sourceKind === undefined) {
      return all;
    }
    const present = all.filter((path) => !/^\/(?:proc|sys)\//.test(path) || sourceKind(path) !== undefined);
    const kept = present.length === 0 ? all.slice(0, 1) : present;
    const gone = all.filter((path) => !kept.includes(path));
    if (gone.length > 0) {
      change(`linux.${key}`, `not there under this kernel: ${gone.join(', ')}`);
    }
    return kept;
  };
  const [maskedPaths, readonlyPaths] = [clean('maskedPaths'), clean('readonlyPaths')];
  return {
    ...(maskedPaths === undefined ? {} : { maskedPaths }),
    ...(readonlyPaths === undefined ? {} : { readonlyPaths }),
  };
}

function normalized(destination: string): string {
  return destination.length > 1 ? destination.replace(/\/+$/, '') : destination;
}

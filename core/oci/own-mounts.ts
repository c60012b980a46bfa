/*
 * Mounts of a captured container that a copy of it must not have, because they are somebody's who may live: the emptyDirs,
 * the shared memory and the small files of its pod, and a /dev/shm from outside. A container that is restored outside of pods
 * gets places of its own for them: directories and files of the node that go with it, and a tmpfs for /dev/shm, with what the
 * checkpoint has of their content. Pure; engine/own-places.ts makes and removes them.
 */
import type { CapturedVolume } from '../checkpoint/metadata.ts';
import { ENGINE_MOUNTS, isOwnLayer } from './foreign-spec.ts';
import { DEV_SHM, isPodsOwn, normalizedDestination } from './pod-volumes.ts';
import { isBind, type OciMount, type OciSpec } from './spec.ts';

export interface OwnPlace {
  /** in the container, of the first mount that lies there */
  readonly destination: string;
  /** on the node */
  readonly path: string;
  readonly kind: 'directory' | 'file';
  /** octal permissions, of a directory that is not filled and a file that is not copied */
  readonly mode: number;
  /** of a file: the source's, where it is there still; else `text` */
  readonly from?: string;
  readonly text: string;
}

export interface OwnMounts {
  /** of the new container, in the order of the captured ones */
  readonly mounts: readonly OciMount[];
  readonly places: readonly OwnPlace[];
  /** destinations whose source is no longer the captured one */
  readonly replaced: ReadonlySet<string>;
  /** destinations of volumes of which the checkpoint has nothing: they are empty */
  readonly emptied: readonly string[];
  /** why there can be no such container: each names a mount */
  readonly reasons: readonly string[];
}

/**
 * A /dev/shm as container runtimes make it for a container of its own, but as large as its memory allows: what the source had
 * there has to fit.
 */
export const OWN_SHM: OciMount = {
  destination: DEV_SHM,
  type: 'tmpfs',
  source: 'shm',
  options: ['nosuid', 'noexec', 'nodev', 'mode=1777'],
};

const EMPTY_DIR = /\/volumes\/kubernetes\.io~empty-dir\/([a-z0-9][a-z0-9-]{0,62})\/?$/;
/** No volume of a pod can have this name. */
const LAST_WORDS_NAME = 'termination.log';
/** The file for a container's last words. Source: kubelet_getters.go, getPodContainerDir. */
const LAST_WORDS = /\/pods\/[^/]+\/containers\/[^/]+\/[^/]+$/;
/** Below the state directory of a node: `volumes/<operation>/<index>-<name>`. */
const OWN_PLACE = /\/volumes\/[0-9a-f]{32}\/\d+-([^/]+)$/;

/** Name of the volume that a place of an earlier restore is; undefined for any other path. */
export function ownPlaceName(source: string): string | undefined {
  return OWN_PLACE.exec(source)?.[1];
}

/** @param dir of the new container's places; nobody else's */
export function ownMounts(
  captured: Pick<OciSpec, 'mounts' | 'annotations' | 'hostname'>,
  volumes: readonly CapturedVolume[],
  dir: string,
): OwnMounts {
  const places = new Map<string, OwnPlace>();
  const [replaced, emptied, reasons] = [new Set<string>(), [] as string[], [] as string[]];
  const names = sourceNames(captured, volumes);
  const newPlace = (source: string, destination: string): OwnPlace | undefined => {
    const place = placeOf(captured, { source, destination }, names.get(source));
    if (place === undefined) {
      return undefined;
    }
    if (place.kind === 'directory' && !names.has(source)) {
      emptied.push(destination);
    }
    const { name, ...rest } = place;
    return { ...rest, destination, path: `${dir}/${places.size}-${name}` };
  };
  const mounts = (captured.mounts ?? []).map((mount): OciMount => {
    const { source } = mount;
    const destination = normalizedDestination(mount.destination);
    if (!isBind(mount) || source === undefined || isOwnLayer(source)) {
      return mount;
    }
    if (destination === DEV_SHM && (names.has(source) || isPodsOwn(source, captured))) {
      replaced.add(destination);
      return OWN_SHM;
    }
    const found = places.get(source) ?? newPlace(source, destination);
    if (found === undefined) {
      if (isPodsOwn(source, captured) && mount.options?.includes('ro') !== true) {
        reasons.push(podsMount(destination, source));
      }
      return mount;
    }
    places.set(source, found);
    replaced.add(destination);
    return { ...mount, source: found.path, ...propagatingNothing(mount) };
  });
  return { mounts, places: [...places.values()], replaced, emptied, reasons };
}

/** What is mounted below it in the container stays there: it would be in the way of who removes the place. */
function propagatingNothing({ options }: OciMount): Pick<OciMount, 'options'> {
  return options === undefined ? {} : { options: options.map((one) => (/^r?shared$/.test(one) ? 'rslave' : one)) };
}

/** Why a mount of a pod is not given to a container outside of it. */
export function podsMount(destination: string, source: string): string {
  return (
    `mount ${destination}: ${source} belongs to the pod of the source, or to a copy of it, which may still write there, and its ` +
    `content is not in the checkpoint: restore into a pod that has a volume there`
  );
}

/** What is mounted at two places is captured for one of them. */
function sourceNames(
  { mounts = [] }: Pick<OciSpec, 'mounts'>,
  volumes: readonly CapturedVolume[],
): ReadonlyMap<string, string> {
  const byDestination = new Map(volumes.map(({ destination, name }) => [normalizedDestination(destination), name]));
  return new Map(
    mounts.flatMap(({ destination, source }) => {
      const name = byDestination.get(normalizedDestination(destination));
      return name === undefined || source === undefined ? [] : [[source, name] as const];
    }),
  );
}

type NamedPlace = Omit<OwnPlace, 'destination' | 'path'> & { readonly name: string };

/** @param volume of which the checkpoint has the content */
function placeOf(
  spec: Pick<OciSpec, 'annotations' | 'hostname'>,
  { source, destination }: { readonly source: string; readonly destination: string },
  volume: string | undefined,
): NamedPlace | undefined {
  if (volume !== undefined) {
    // One that is mounted as the shared memory, too, cannot be both.
    return volume === DEV_SHM ? undefined : directory(volume);
  }
  const [earlier, ofPod] = [ownPlaceName(source), isPodsOwn(source, spec)];
  if (earlier === undefined && !ofPod) {
    return undefined;
  }
  const file = ENGINE_MOUNTS[destination];
  if (file?.kind === 'file') {
    const text = destination === '/etc/hostname' ? `${spec.hostname ?? 'localhost'}\n` : file.text;
    return { ...file, kind: 'file', text, from: source, name: destination.slice(1).replaceAll('/', '-') };
  }
  if (LAST_WORDS.test(source) || earlier === LAST_WORDS_NAME) {
    return { kind: 'file', mode: 0o666, text: '', from: source, name: LAST_WORDS_NAME };
  }
  const name = earlier ?? EMPTY_DIR.exec(source)?.[1];
  return name === undefined ? undefined : directory(name);
}

function directory(name: string): NamedPlace {
  return { kind: 'directory', mode: 0o777, text: '', name };
}

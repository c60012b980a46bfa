/* Which mounts of a container are its pod's own directories, or its own, at a checkpoint and at a restore, and what goes where. */
import { existsSync, lstatSync } from 'node:fs';
import { join } from 'node:path';
import { FS_FILES } from '../core/checkpoint/file-names.ts';
import type { CapturedVolume, Metadata } from '../core/checkpoint/metadata.ts';
import { criAnnotation } from '../core/oci/annotations.ts';
import { ownPlaceName } from '../core/oci/own-mounts.ts';
import { DEV_SHM, emptyDirOf, isSandboxShm, normalizedDestination } from '../core/oci/pod-volumes.ts';
import { isBind, type OciSpec } from '../core/oci/spec.ts';
import type { NodeSettings } from './node-deps.ts';

const KUBELET_DIR = '/var/lib/kubelet';

export interface PodDirectory {
  /** of the emptyDir in its pod; `/dev/shm` for the pod's shared memory */
  readonly name: string;
  /** in the container */
  readonly destination: string;
  /** on the node: nobody but root can put a link in its place, or above it */
  readonly source: string;
  /** false: a single file, by a subPath */
  readonly isDirectory: boolean;
}

/** Of a pod's container, in the order of the mounts; one that is mounted at two places counts twice. */
export function podDirectories(spec: OciSpec, settings: Pick<NodeSettings, 'kubeletDir'>): PodDirectory[] {
  const sandboxId = criAnnotation(spec, 'sandboxId');
  const podUid = criAnnotation(spec, 'podUid');
  return (spec.mounts ?? []).flatMap((mount): PodDirectory[] => {
    const { source } = mount;
    const destination = normalizedDestination(mount.destination);
    if (!isBind(mount) || source === undefined) {
      return [];
    }
    const emptyDir = emptyDirOf(source, settings.kubeletDir ?? KUBELET_DIR, podUid);
    const isShm = destination === DEV_SHM && isSandboxShm(source, sandboxId);
    const name = emptyDir !== undefined && isDirectory(emptyDir.dir) ? emptyDir.name : isShm ? DEV_SHM : undefined;
    return name === undefined ? [] : [{ name, destination, source, isDirectory: isDirectory(source) }];
  });
}

/** Volumes of restored containers outside of pods lie below it (own-places.ts). */
export function ownVolumesDir({ stateDir }: Pick<NodeSettings, 'stateDir'>): string {
  return join(stateDir, 'volumes');
}

/** Those of a container that an earlier restore has made, in the order of its mounts. */
export function ownDirectories(
  spec: Pick<OciSpec, 'mounts'>,
  settings: Pick<NodeSettings, 'stateDir'>,
): ReadonlyArray<{ readonly name: string; readonly destination: string; readonly source: string }> {
  return (spec.mounts ?? []).flatMap((mount) => {
    const { source } = mount;
    const isOwn = isBind(mount) && source?.startsWith(`${ownVolumesDir(settings)}/`) === true;
    const name = isOwn ? ownPlaceName(source) : undefined;
    return source === undefined || name === undefined || !isDirectory(source)
      ? []
      : [{ name, destination: normalizedDestination(mount.destination), source }];
  });
}

/** A link to one is none. */
function isDirectory(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** Content of a volume, and the directory of the node that it goes to. */
export interface VolumePlace {
  /** below the directory of the checkpoint */
  readonly file: string;
  readonly dir: string;
}

/**
 * Where a container of a pod takes what the checkpoint has of its source's volumes: into the pod's own directories at the
 * same places, and over nothing else.
 * @param spec of the new container
 */
export function volumePlaces(
  volumes: readonly CapturedVolume[],
  spec: OciSpec,
  settings: Pick<NodeSettings, 'kubeletDir'>,
): { readonly places: readonly VolumePlace[]; readonly reasons: readonly string[] } {
  const here = podDirectories(spec, settings).filter((directory) => directory.isDirectory);
  const places: VolumePlace[] = [];
  const reasons: string[] = [];
  for (const { name, destination, file } of volumes) {
    const found = here.find((directory) => directory.destination === destination);
    if (found === undefined) {
      const what = name === DEV_SHM ? 'its /dev/shm' : `its volume ${name}`;
      reasons.push(
        `mount ${destination}: the checkpoint has the content of ${what}, and this pod has no emptyDir there`,
      );
    } else {
      places.push({ file, dir: found.source });
    }
  }
  return { places, reasons };
}

/** As `volumePlaces`, for a container outside of pods that our own restore has made: the places that it was made with. */
export function ownVolumePlaces(
  volumes: readonly CapturedVolume[],
  spec: OciSpec,
  settings: Pick<NodeSettings, 'stateDir'>,
): readonly VolumePlace[] {
  const here = ownDirectories(spec, settings);
  return volumes.flatMap(({ destination, file }) => {
    const found = here.find((directory) => directory.destination === destination);
    return found === undefined ? [] : [{ file, dir: found.source }];
  });
}

/** Of a checkpoint on this node. One of before volumes were noted may have a /dev/shm. */
export function volumesOf({ volumes }: Pick<Metadata, 'volumes'>, checkpointDir: string): readonly CapturedVolume[] {
  if (volumes !== undefined) {
    return volumes;
  }
  return existsSync(join(checkpointDir, FS_FILES.devShm))
    ? [{ name: DEV_SHM, destination: DEV_SHM, file: FS_FILES.devShm }]
    : [];
}

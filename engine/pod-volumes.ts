/*
 * Which directories of its pod a checkpoint of a container takes along: emptyDirs and the /dev/shm of the pod live no longer
 * than the pod, and another pod has them empty. Those that the pod's owner lists are captured. In one that is not listed no
 * process may hold anything by its name: it would not be there at the restore, and CRIU would refuse.
 */
import { readdirSync } from 'node:fs';
import { FS_FILES, volumeFile } from '../core/checkpoint/file-names.ts';
import type { CapturedVolume } from '../core/checkpoint/metadata.ts';
import { KybernateError } from '../core/errors.ts';
import { ANNOTATIONS, ownAnnotation } from '../core/oci/annotations.ts';
import { DEV_SHM, normalizedDestination } from '../core/oci/pod-volumes.ts';
import { type OciSpec, parseSpec } from '../core/oci/spec.ts';
import { openFds } from '../native/proc/fds.ts';
import { readMaps } from '../native/proc/maps.ts';
import { type MountInfo, readMounts } from '../native/proc/mounts.ts';
import { pathFacts } from '../native/proc/path-facts.ts';
import { readProcLink } from '../native/proc/read.ts';
import type { Run } from '../native/run/run.ts';
import type { ProcessSurvey } from './analysis-process.ts';
import type { ContainerFacts } from './container-facts.ts';
import { diskUsage } from './estimate.ts';
import type { NodeSettings } from './node-deps.ts';
import { type PodDirectory, podDirectories } from './pod-directories.ts';

/** One that is captured. */
export interface ChosenVolume extends CapturedVolume {
  /** on the node of the checkpoint */
  readonly source: string;
}

export interface VolumeChoice {
  readonly volumes: readonly ChosenVolume[];
  readonly refusals: readonly string[];
  readonly warnings: readonly string[];
}

const NAME = String.raw`(?:/dev/shm|[a-z0-9][a-z0-9-]{0,62})`;
const LIST = new RegExp(`^(?:-|${NAME}(?:,${NAME})*)$`);
/** So many names of files are told. */
const TOLD = 5;

type Facts = Pick<ContainerFacts, 'record' | 'mounts' | 'processes' | 'pod'>;

/** @throws InvalidInput the annotation is no list of names */
export function chooseVolumes(
  facts: Facts,
  surveys: readonly ProcessSurvey[],
  settings: Pick<NodeSettings, 'kubeletDir'>,
): VolumeChoice {
  const spec = parseSpec(facts.record.spec, 'specification of the container');
  if (facts.pod === undefined) {
    return choiceBesidePods(facts, surveys);
  }
  const asked = listOf(spec);
  const all = podDirectories(spec, settings);
  const isAsked = ({ name, destination }: PodDirectory): boolean =>
    (asked ?? [DEV_SHM]).some((wanted) => wanted === name || wanted === destination);
  const volumes = numbered(all.filter(isAsked));
  const left = all.filter(
    (directory) => !isAsked(directory) && !volumes.some(({ source }) => source === directory.source),
  );
  return {
    volumes,
    refusals: [
      ...(asked ?? []).flatMap((wanted) => refuseUnknown(wanted, all, facts)),
      ...all.filter(isAsked).flatMap(refuseKind),
      ...refuseHeld(facts.processes, left),
      ...refuseLinks(surveys, volumes),
    ],
    warnings: left
      .filter(({ source }) => hasContent(source))
      .map((directory) => `${nameOf(directory)} at ${directory.destination} is not captured: another pod has it empty`),
  };
}

/** Beside pods a /dev/shm from outside is the container's own as far as anybody knows: root has made it. */
function choiceBesidePods({ mounts }: Facts, surveys: readonly ProcessSurvey[]): VolumeChoice {
  const mount = mounts.find(({ destination, captured }) => normalizedDestination(destination) === DEV_SHM && !captured);
  if (mount === undefined || mount.sourceKind !== 'directory') {
    const missing =
      mount === undefined ? [] : [`${DEV_SHM} comes from ${mount.source}, which is no directory: it is not captured`];
    return { volumes: [], refusals: [], warnings: missing };
  }
  const volumes = [{ name: DEV_SHM, destination: DEV_SHM, source: mount.source, file: FS_FILES.devShm }];
  return { volumes, refusals: refuseLinks(surveys, volumes), warnings: [] };
}

/** What is mounted at two places is captured once. */
function numbered(directories: readonly PodDirectory[]): readonly ChosenVolume[] {
  const bySource = new Map(directories.toReversed().map((directory) => [directory.source, directory]));
  const own = [...bySource.values()].reverse();
  const isShm = ({ destination }: PodDirectory): boolean => destination === DEV_SHM;
  return [
    ...own.filter(isShm).map(({ source }) => ({ name: DEV_SHM, destination: DEV_SHM, source, file: FS_FILES.devShm })),
    ...own
      .filter((directory) => !isShm(directory))
      .map(({ name, destination, source }, index) => ({ name, destination, source, file: volumeFile(index) })),
  ];
}

const VOLUME_LIMIT_BYTES = 16 * 1024 ** 3;

/** What all volumes of one checkpoint may hold: they are copied while the workload stands still. */
export function volumeLimit({ volumeLimitBytes }: Pick<NodeSettings, 'volumeLimitBytes'>): number {
  return volumeLimitBytes ?? VOLUME_LIMIT_BYTES;
}

/** @returns what the volumes hold now, and why that is too much */
export async function measureVolumes(
  run: Run,
  volumes: readonly ChosenVolume[],
  settings: Pick<NodeSettings, 'volumeLimitBytes'>,
): Promise<{ readonly bytes: number; readonly refusals: readonly string[] }> {
  const sources = volumes.map(({ source }) => source);
  const bytes = await diskUsage(run, sources);
  const limit = volumeLimit(settings);
  const names = volumes.map(({ name }) => name).join(', ');
  if (bytes === undefined) {
    return {
      bytes: 0,
      refusals: [`the volumes to capture (${names}) have so many files that they could not be measured`],
    };
  }
  return {
    bytes,
    refusals:
      bytes > limit
        ? [`the volumes to capture (${names}) hold ${bytes} bytes, ${limit} are allowed (KYBERNATE_VOLUME_LIMIT)`]
        : [],
  };
}

/** @returns undefined when the pod says nothing */
function listOf(spec: OciSpec): readonly string[] | undefined {
  const text = ownAnnotation(spec, ANNOTATIONS.captureVolumes)?.replaceAll(' ', '');
  if (text !== undefined && !LIST.test(text)) {
    throw new KybernateError(
      'InvalidInput',
      `annotation ${ANNOTATIONS.captureVolumes}: ${JSON.stringify(text)} is no list of volumes such as cache,${DEV_SHM}`,
    );
  }
  return text === '-' ? [] : text?.split(',');
}

function nameOf({ name }: Pick<PodDirectory, 'name'>): string {
  return name === DEV_SHM ? 'the shared memory of the pod' : `the volume ${name} (emptyDir)`;
}

function refuseUnknown(wanted: string, all: readonly PodDirectory[], { mounts }: Facts): string[] {
  if (all.some(({ name, destination }) => wanted === name || wanted === destination)) {
    return [];
  }
  const at = mounts.find(({ destination }) => normalizedDestination(destination) === wanted);
  if (wanted === DEV_SHM) {
    // The container's own is in CRIU's images.
    return at === undefined || at.captured
      ? []
      : [
          `${ANNOTATIONS.captureVolumes} names ${DEV_SHM}, which is ${at.source} of the node here: it cannot be captured`,
        ];
  }
  const names = [...new Set(all.map(({ name }) => name))].join(', ');
  return [
    `${ANNOTATIONS.captureVolumes} names the volume ${wanted}, and the container has no emptyDir of this name ` +
      `(it has: ${names === '' ? 'none' : names})`,
  ];
}

/** A file cannot be laid into a pod that has made a directory of it, and huge pages take no write(2). */
function refuseKind(directory: PodDirectory): string[] {
  const why = directory.isDirectory
    ? pathFacts(directory.source)?.fileSystem === 'hugetlbfs'
      ? 'consists of huge pages'
      : undefined
    : 'is a single file there';
  return why === undefined
    ? []
    : [
        `${nameOf(directory)} at ${directory.destination} ${why}: it cannot be captured, take it off ${ANNOTATIONS.captureVolumes}`,
      ];
}

function refuseHeld(processes: ContainerFacts['processes'], left: readonly PodDirectory[]): string[] {
  if (left.length === 0) {
    return [];
  }
  return processes
    .filter(({ entered }) => !entered)
    .flatMap(({ hostPid, command }) => {
      const held = heldPaths(hostPid);
      return left.flatMap((directory) => {
        const paths = new Set(
          // The directory itself is there in every pod.
          held
            .filter(({ mountPoint, path }) => mountPoint === directory.destination && path !== mountPoint)
            .map(({ path }) => path),
        );
        return paths.size === 0
          ? []
          : [
              `process ${hostPid} (${command}) has ${told([...paths])} open, in ${nameOf(directory)}, which another pod ` +
                `has empty: add ${directory.name} to the pod's annotation ${ANNOTATIONS.captureVolumes}, or have it closed`,
            ];
      });
    });
}

function told(paths: readonly string[]): string {
  const more = paths.length - TOLD;
  return `${paths.slice(0, TOLD).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

interface HeldPath {
  readonly path: string;
  /** of the mount that it lies on */
  readonly mountPoint: string | undefined;
}

/** What CRIU will look up by its name: open files and directories, mapped files, programs, the working directory. */
function heldPaths(hostPid: number): HeldPath[] {
  const mounts = readMounts(hostPid);
  const points = new Map(mounts.map(({ id, mountPoint }) => [id, mountPoint]));
  const opened = openFds(hostPid)
    .filter(({ kind }) => kind === 'file' || kind === 'deleted')
    .map(({ target, mountId }) => ({ path: target, mountPoint: points.get(mountId) }));
  const named = [...readMaps(hostPid).map(({ path }) => path), readProcLink(`/proc/${hostPid}/cwd`) ?? ''];
  return [
    ...opened,
    ...named
      .filter((path) => path.startsWith('/'))
      .map((path) => ({ path, mountPoint: mountOver(mounts, path)?.mountPoint })),
  ];
}

function mountOver(mounts: readonly MountInfo[], path: string): MountInfo | undefined {
  const above = mounts.filter(
    ({ mountPoint }) => mountPoint === '/' || path === mountPoint || path.startsWith(`${mountPoint}/`),
  );
  const deepest = Math.max(0, ...above.map(({ mountPoint }) => mountPoint.length));
  return above.findLast(({ mountPoint }) => mountPoint.length === deepest);
}

/** CRIU's own link to such a file exists only until CRIU returns, and we keep those of the writable layer alone. */
function refuseLinks(surveys: readonly ProcessSurvey[], volumes: readonly ChosenVolume[]): string[] {
  return surveys.flatMap(({ process, deletedFiles }) => {
    const linked = volumes.length === 0 ? [] : deletedFiles.filter(({ links }) => links > 0);
    const mounts = linked.length === 0 ? [] : readMounts(process.hostPid);
    return linked
      .filter(({ path }) => volumes.some(({ destination }) => destination === mountOver(mounts, path)?.mountPoint))
      .map(
        ({ path }) =>
          `${path} is open in process ${process.hostPid} (${process.command}), has lost its name and exists under another ` +
          "one, in a volume, where CRIU's link to it cannot be kept: close the file, or remove its other name",
      );
  });
}

function hasContent(dir: string): boolean {
  try {
    return readdirSync(dir).length > 0;
  } catch {
    // ENOTDIR: a single file; ENOENT: removed after it had been mounted.
    return false;
  }
}

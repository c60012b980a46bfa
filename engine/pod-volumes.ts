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
import { readMounts } from '../native/proc/mounts.ts';
import { pathFacts } from '../native/proc/path-facts.ts';
import type { Run } from '../native/run/run.ts';
import type { ProcessSurvey } from './analysis-process.ts';
import type { ContainerFacts } from './container-facts.ts';
import { archiveBytes } from './estimate.ts';
import { heldIn, mountOver } from './held-paths.ts';
import type { NodeSettings } from './node-deps.ts';
import { ownDirectories, type PodDirectory, podDirectories } from './pod-directories.ts';

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

const BY_REQUEST = 'captureVolumes of the request';
/** By whom volumes are named. */
interface Asked {
  readonly names: readonly string[];
  readonly by: string;
}
const BY_POD = `the annotation ${ANNOTATIONS.captureVolumes}`;

type Facts = Pick<ContainerFacts, 'record' | 'mounts' | 'processes' | 'pod'>;

/**
 * @param wanted names in a request, which count more than the annotation of the pod
 * @throws InvalidInput the annotation is no list of names
 */
export function chooseVolumes(
  facts: Facts,
  surveys: readonly ProcessSurvey[],
  settings: Pick<NodeSettings, 'kubeletDir' | 'stateDir'>,
  wanted?: readonly string[],
): VolumeChoice {
  const spec = parseSpec(facts.record.spec, 'specification of the container');
  if (facts.pod === undefined) {
    return choiceBesidePods(facts, spec, surveys, { settings, wanted });
  }
  const asked = listOf(spec, wanted);
  const all = podDirectories(spec, settings);
  const isAsked = ({ name, destination }: PodDirectory): boolean =>
    (asked?.names ?? [DEV_SHM]).some((one) => one === name || one === destination);
  const volumes = numbered(all.filter(isAsked));
  const left = all.filter(
    (directory) => !isAsked(directory) && !volumes.some(({ source }) => source === directory.source),
  );
  return {
    volumes,
    refusals: [
      ...(asked?.names ?? []).flatMap((name) => refuseUnknown({ name, by: asked?.by ?? '' }, all, facts)),
      ...all.filter(isAsked).flatMap(refuseKind),
      ...heldIn(facts.processes, left).map(
        ({ process, paths, directory }) =>
          `process ${process.hostPid} (${process.command}) has ${told(paths)} open, in ${nameOf(directory)}, which another pod ` +
          `has empty: name ${directory.name} in captureVolumes or in the pod's annotation ${ANNOTATIONS.captureVolumes}, or have it closed`,
      ),
      ...refuseLinks(surveys, volumes),
    ],
    warnings: left
      .filter(({ source }) => hasContent(source))
      .map((directory) => `${nameOf(directory)} at ${directory.destination} is not captured: another pod has it empty`),
  };
}

/**
 * Beside pods a /dev/shm from outside is the container's own as far as anybody knows: root has made it. So are the volumes that
 * an earlier restore has made for it.
 */
function choiceBesidePods(
  { mounts }: Facts,
  spec: OciSpec,
  surveys: readonly ProcessSurvey[],
  {
    settings,
    wanted = [],
  }: {
    readonly settings: Pick<NodeSettings, 'stateDir'>;
    readonly wanted: readonly string[] | undefined;
  },
): VolumeChoice {
  const shm = mounts.find(({ destination, captured }) => normalizedDestination(destination) === DEV_SHM && !captured);
  const isTaken = shm?.sourceKind === 'directory';
  const volumes = numbered([
    ...(isTaken ? [{ name: DEV_SHM, destination: DEV_SHM, source: shm.source }] : []),
    ...ownDirectories(spec, settings),
  ]);
  return {
    volumes,
    refusals: [
      ...wanted
        .filter((name) => name !== '-')
        .flatMap((name) => refuseUnknown({ name, by: BY_REQUEST }, volumes, { mounts })),
      ...refuseLinks(surveys, volumes),
    ],
    warnings:
      shm === undefined || isTaken
        ? []
        : [`${DEV_SHM} comes from ${shm.source}, which is no directory: it is not captured`],
  };
}

/** What is mounted at two places is captured once. */
function numbered(directories: ReadonlyArray<Omit<PodDirectory, 'isDirectory'>>): readonly ChosenVolume[] {
  const bySource = new Map(directories.toReversed().map((directory) => [directory.source, directory]));
  const own = [...bySource.values()].reverse();
  const isShm = ({ destination }: { readonly destination: string }): boolean => destination === DEV_SHM;
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
  const bytes = await archiveBytes(run, sources);
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
        ? [
            `the volumes to capture (${names}) take ${bytes} bytes as archives, ${limit} are allowed (KYBERNATE_VOLUME_LIMIT)`,
          ]
        : [],
  };
}

/** @returns undefined when neither says anything */
function listOf(spec: OciSpec, wanted: readonly string[] | undefined): Asked | undefined {
  if (wanted !== undefined) {
    return { names: wanted.filter((name) => name !== '-'), by: BY_REQUEST };
  }
  const text = ownAnnotation(spec, ANNOTATIONS.captureVolumes)?.replaceAll(' ', '');
  if (text !== undefined && !LIST.test(text)) {
    throw new KybernateError(
      'InvalidInput',
      `annotation ${ANNOTATIONS.captureVolumes}: ${JSON.stringify(text)} is no list of volumes such as cache,${DEV_SHM}`,
    );
  }
  return text === undefined ? undefined : { names: text === '-' ? [] : text.split(','), by: BY_POD };
}

function told(paths: readonly string[]): string {
  const more = paths.length - TOLD;
  return `${paths.slice(0, TOLD).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

function nameOf({ name }: Pick<PodDirectory, 'name'>): string {
  return name === DEV_SHM ? 'the shared memory of the pod' : `the volume ${name} (emptyDir)`;
}

function refuseUnknown(
  { name: wanted, by }: { readonly name: string; readonly by: string },
  all: ReadonlyArray<Pick<PodDirectory, 'name' | 'destination'>>,
  { mounts }: Pick<Facts, 'mounts'>,
): string[] {
  if (all.some(({ name, destination }) => wanted === name || wanted === destination)) {
    return [];
  }
  const at = mounts.find(({ destination }) => normalizedDestination(destination) === wanted);
  if (wanted === DEV_SHM) {
    // The container's own is in CRIU's images.
    return at === undefined || at.captured
      ? []
      : [`${by} names ${DEV_SHM}, which is ${at.source} of the node here: it cannot be captured`];
  }
  const names = [...new Set(all.map(({ name }) => name))].join(', ');
  return [
    `${by} names the volume ${wanted}, and the container has no emptyDir of this name ` +
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
        `${nameOf(directory)} at ${directory.destination} ${why}: it cannot be captured, take it off the list of volumes`,
      ];
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

/*
 * The files of a checkpoint as Podman or containerd's CRI expect them in an archive. What an import has carried goes back
 * as it was; what the other engine would have written itself is made here.
 */
import { createHash } from 'node:crypto';
import { withCgroupDirectories } from '../../core/checkpoint/cgroup-image.ts';
import { CRIU_DIR, FS_FILES, LOG_FILES, ORIGIN_DIR, OWN_FILES } from '../../core/checkpoint/file-names.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { KybernateError } from '../../core/errors.ts';
import { parseSpec } from '../../core/oci/spec.ts';
import type { CheckpointCopy } from '../copy.ts';
import { parseMetadata } from '../metadata.ts';
import { criDumps } from './cri-dumps.ts';
import { exportedLayer } from './exported-layer.ts';
import { FOREIGN_FILES, FOREIGN_IMAGES } from './foreign-files.ts';
import { type DumpInput, type ExportedFile, type ExportFormat, bytesOf, madeFile, textOf } from './exported-file.ts';
import { podmanDumps } from './podman-dumps.ts';

export interface ExportedArchive {
  readonly files: readonly ExportedFile[];
  /** s since 1970 */
  readonly mtimeS: number;
  readonly metadata: Metadata;
  /** what the other engine cannot take as it is */
  readonly warnings: readonly string[];
}

/** Files of ours that have a place of their own in an archive. */
const MOVED = new Map<string, string>([
  [FS_FILES.devShm, FOREIGN_FILES.devShm],
  [LOG_FILES.dump, FOREIGN_FILES.dumpLog],
  [LOG_FILES.stats, FOREIGN_FILES.stats],
]);

/**
 * @param imageId id of the image where the other engine runs; default: as it was captured or imported, else its name
 * @throws Incompatible the other engine could not restore it; CheckpointCorrupt
 */
export async function exportedFiles(
  copy: CheckpointCopy,
  format: ExportFormat,
  imageId: string | undefined,
): Promise<ExportedArchive> {
  const metadata = parseMetadata(copy.metadataText, copy.checkpointId);
  refuseForeign(metadata);
  const spec = parseSpec(await textOf(copy, OWN_FILES.spec), OWN_FILES.spec);
  const input: DumpInput = {
    spec,
    metadata,
    containerId: archiveId(metadata),
    image: imageOf(metadata, format, imageId),
  };
  const dumps = await dumpsOf(copy, format, input);
  const layer = await exportedLayer(copy, format);
  const made = new Map(
    [...Object.entries(dumps).map(([path, text]) => madeFile(path, text)), ...layer.files].map((file) => [
      file.path,
      file,
    ]),
  );
  const cgroups = copy.manifest.files.find(({ path }) => path === `${CRIU_DIR}/cgroup.img`);
  if (cgroups !== undefined && metadata.origin === undefined) {
    const path = `${FOREIGN_IMAGES}/cgroup.img`;
    made.set(path, madeFile(path, withCgroupDirectories(await bytesOf(copy, cgroups))));
  }
  const files = [...made.values()];
  for (const file of copy.manifest.files) {
    const path = placeOf(file.path);
    if (path !== undefined && !made.has(path)) {
      files.push({ path, bytes: file.bytes, content: () => copy.read(file) });
    }
  }
  return {
    files: files.sort((left, right) => order(left.path) - order(right.path) || (left.path < right.path ? -1 : 1)),
    mtimeS: Math.max(0, Math.floor(Date.parse(metadata.createdAt) / 1000)) || 0,
    metadata,
    warnings: [
      ...layer.warnings,
      ...(format === 'podman' ? imageWarnings(input) : []),
      ...connectionWarning(metadata, format),
      ...volumeWarnings(metadata),
    ],
  };
}

/** Checkpoints of before have no id. */
function imageWarnings({ image }: DumpInput): string[] {
  return image.id === image.name
    ? [
        `the id of the image ${image.name} is not known: Podman 5 wants it, as podman images --no-trunc shows it (--image-id)`,
      ]
    : [];
}

function refuseForeign({ gpuProcesses, capture, checkpointId }: Metadata): void {
  const why =
    gpuProcesses.length > 0
      ? 'it has GPU processes, whose state only Kybernate brings back'
      : capture.method === 'criu'
        ? undefined
        : `its memory was captured by ${capture.method}, which CRIU alone does not read`;
  if (why !== undefined) {
    throw new KybernateError('Incompatible', `${checkpointId} cannot be restored by another engine: ${why}`, {
      details: { reasons: [why] },
    });
  }
}

function connectionWarning({ capture, origin }: Metadata, format: ExportFormat): string[] {
  if (origin !== undefined || (capture.connectedAddresses ?? []).length === 0) {
    return [];
  }
  return [
    format === 'podman'
      ? 'it had open TCP connections: Podman restores it with --tcp-established or --tcp-close'
      : "it had open TCP connections: containerd's restore of archives has no option for them, and fails",
  ];
}

/** Other engines have no place for the content of a pod's volumes. */
function volumeWarnings({ volumes = [] }: Metadata): string[] {
  return volumes
    .filter(({ file }) => file !== FS_FILES.devShm)
    .map(({ name, destination }) => `the content of the volume ${name} at ${destination} is not in the archive`);
}

/** Podman wants 64 hexadecimal digits. */
function archiveId({ container, checkpointId }: Metadata): string {
  return /^[0-9a-f]{64}$/.test(container.id)
    ? container.id
    : createHash('sha256').update(`${checkpointId}/${container.namespace}/${container.id}`).digest('hex');
}

function imageOf(
  { container, origin, checkpointId }: Metadata,
  format: ExportFormat,
  imageId: string | undefined,
): DumpInput['image'] {
  const name = container.image?.ref ?? origin?.image?.name;
  if (name === undefined) {
    throw new KybernateError(
      'Incompatible',
      `${checkpointId} cannot be restored by another engine: it was not made from an image`,
      { details: { reasons: ['no image'] } },
    );
  }
  // Podman knows images by their id alone; under the CRI a node may have to pull it by the digest of its manifest.
  const id = (format === 'podman' ? container.image?.configDigest : undefined) ?? origin?.image?.configDigest;
  return { name, id: imageId ?? id?.replace('sha256:', '') ?? name };
}

async function dumpsOf(copy: CheckpointCopy, format: ExportFormat, input: DumpInput): Promise<Record<string, string>> {
  const came = input.metadata.origin?.format;
  if (format === 'podman' ? came === 'podman' : came === 'containerd' || came === 'cri-o') {
    return {
      [FOREIGN_FILES.spec]: await textOf(copy, `${ORIGIN_DIR}/${FOREIGN_FILES.spec}`),
      [FOREIGN_FILES.config]: await textOf(copy, `${ORIGIN_DIR}/${FOREIGN_FILES.config}`),
    };
  }
  return format === 'podman' ? podmanDumps(input) : criDumps(input);
}

function placeOf(path: string): string | undefined {
  if (path.startsWith(`${CRIU_DIR}/`)) {
    return `${FOREIGN_IMAGES}/${path.slice(CRIU_DIR.length + 1)}`;
  }
  return path.startsWith(`${ORIGIN_DIR}/`) ? path.slice(ORIGIN_DIR.length + 1) : MOVED.get(path);
}

/** What a reader wants to know first stands first. */
function order(path: string): number {
  return path === FOREIGN_FILES.spec || path === FOREIGN_FILES.config ? 0 : path.includes('/') ? 2 : 1;
}

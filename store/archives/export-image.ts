/*
 * A checkpoint as a checkpoint image in an OCI image layout: its archive as the one layer of an image from scratch, with
 * the annotations by which Podman, CRI-O and containerd know such images. Other images of the layout stay.
 * Sources: podman, libpod/define/annotations.go; checkpointctl, lib/annotations.go; CRI-O's image annotations.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { parseJson } from '../../core/checkpoint/manifest.ts';
import type { Op } from '../../core/op.ts';
import { errnoOf, mapDiskFull, writeAll, writeFileDurably } from '../files.ts';
import { archivePieces } from './export-archive.ts';
import type { ExportedArchive } from './export-files.ts';
import { layoutIndex, MEDIA_TYPES, TAG_ANNOTATION } from './oci-layout.ts';

/** Go's names of machines. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x86_64: 'amd64', aarch64: 'arm64' };

interface Blob {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/**
 * @param dir made when it is not there
 * @returns digest of the image's manifest, and bytes of its layer
 * Crash: blobs that no image names, and files `.new-*`; index.json is the old one or the new one.
 */
export async function exportImage(
  archive: ExportedArchive,
  { dir, tag }: { readonly dir: string; readonly tag: string },
  op: Op,
): Promise<{ digest: string; bytes: number }> {
  const blobs = join(dir, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const layer = await writeBlob(blobs, MEDIA_TYPES.layer, archivePieces(archive, op));
  const { metadata } = archive;
  const config = await writeBlob(blobs, MEDIA_TYPES.config, [
    jsonBytes({
      created: metadata.createdAt,
      architecture: ARCHITECTURES[metadata.node.arch] ?? metadata.node.arch,
      os: 'linux',
      config: {},
      rootfs: { type: 'layers', diff_ids: [layer.digest] },
    }),
  ]);
  const manifest = await writeBlob(blobs, MEDIA_TYPES.manifest, [
    jsonBytes({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.manifest,
      config,
      layers: [layer],
      annotations: imageAnnotations(metadata),
    }),
  ]);
  const others = (await indexIn(dir)).filter(({ annotations }) => annotations?.[TAG_ANNOTATION] !== tag);
  const manifests = [...others, { ...manifest, annotations: { [TAG_ANNOTATION]: tag } }];
  await writeFileDurably(join(dir, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  await writeFileDurably(
    join(dir, 'index.json'),
    JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.index, manifests }),
  );
  return { digest: manifest.digest, bytes: layer.size };
}

function imageAnnotations({ container, node, origin }: Metadata): Record<string, string> {
  const image = container.image?.ref ?? origin?.image?.name ?? '';
  const { pod } = container;
  const name = pod?.container ?? container.id;
  const all = {
    'io.podman.annotations.checkpoint.name': name,
    'io.podman.annotations.checkpoint.rawImageName': image,
    'io.podman.annotations.checkpoint.rootfsImageName': image,
    'io.podman.annotations.checkpoint.rootfsImageID': (
      container.image?.configDigest ??
      origin?.image?.configDigest ??
      ''
    ).replace('sha256:', ''),
    'io.podman.annotations.checkpoint.criu.version': node.criuVersion,
    'io.podman.annotations.checkpoint.host.arch': ARCHITECTURES[node.arch] ?? node.arch,
    'io.podman.annotations.checkpoint.host.kernel': node.kernel,
    'io.podman.annotations.checkpoint.cgroups.version': `v${node.cgroupVersion}`,
    'io.kubernetes.cri-o.annotations.checkpoint.name': name,
    'org.criu.checkpoint.container.name': name,
    'org.criu.checkpoint.engine.name': origin?.format ?? 'kybernate',
    'org.criu.checkpoint.rootfsImageName': image,
    'org.criu.checkpoint.pod.name': pod?.name ?? '',
    'org.criu.checkpoint.pod.namespace': pod?.namespace ?? '',
    'org.criu.checkpoint.pod.uid': pod?.uid ?? '',
    'org.criu.checkpoint.criu.version': node.criuVersion,
    'org.criu.checkpoint.host.arch': ARCHITECTURES[node.arch] ?? node.arch,
    'org.criu.checkpoint.host.kernel': node.kernel,
    'org.criu.checkpoint.cgroup.version': `v${node.cgroupVersion}`,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== ''));
}

function jsonBytes(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

async function indexIn(dir: string): Promise<ReturnType<typeof layoutIndex.parse>['manifests']> {
  const file = join(dir, 'index.json');
  try {
    return parseJson(layoutIndex, await readFile(file, 'utf8'), file).manifests;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return [];
    }
    throw error;
  }
}

/** Named by its content when all of it is there. */
async function writeBlob(
  blobs: string,
  mediaType: string,
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<Blob> {
  const temporary = join(blobs, `.new-${randomBytes(6).toString('hex')}`);
  const handle = await open(temporary, 'wx', 0o644);
  try {
    const hash = createHash('sha256');
    let size = 0;
    for await (const piece of pieces) {
      hash.update(piece);
      await writeAll(handle, piece, size);
      size += piece.length;
    }
    await handle.datasync();
    const digest = hash.digest('hex');
    await rename(temporary, join(blobs, digest));
    return { mediaType, digest: `sha256:${digest}`, size };
  } catch (error) {
    await rm(temporary, { force: true });
    throw mapDiskFull(error, temporary);
  } finally {
    await handle.close();
  }
}

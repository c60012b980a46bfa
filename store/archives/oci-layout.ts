/*
 * Checkpoint images: an image from scratch whose one layer is a checkpoint archive, as `podman container checkpoint
 * --create-image` and `buildah` make it for CRI-O and containerd; here in an OCI image layout, a directory.
 *
 *   oci-layout            {"imageLayoutVersion":"1.0.0"}
 *   index.json            manifests, each with its tag as an annotation
 *   blobs/sha256/<hex>    manifest, configuration, layer, each named by its content
 * Source: OCI image-spec, image-layout.md and manifest.md.
 */
import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { parseJson } from '../../core/checkpoint/manifest.ts';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { refused } from './limits.ts';

export const TAG_ANNOTATION = 'org.opencontainers.image.ref.name';
export const MEDIA_TYPES = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
} as const;
const CHUNK_BYTES = 256 * 1024;
const MAX_JSON_BYTES = 4 * 2 ** 20;
/** Through no link, and without waiting for the other end of a pipe. */
const PLAIN = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/** An index may name an index; no honest one does it more often. */
const MAX_DEPTH = 3;

const digest = z.string().regex(/^sha256:[0-9a-f]{64}$/, 'a sha256 digest');
const descriptor = z.looseObject({
  mediaType: z.string(),
  digest,
  size: z.int().min(0),
  annotations: z.record(z.string(), z.string()).optional(),
});
type Descriptor = z.output<typeof descriptor>;
export const layoutIndex = z.looseObject({ manifests: z.array(descriptor).min(1).max(1000) });
const manifest = z.looseObject({ layers: z.array(descriptor).max(1000) });

/** `<directory>[:<tag>]`, or undefined for what is no directory with an image layout. */
export async function findLayout(argument: string): Promise<{ dir: string; tag?: string } | undefined> {
  const colon = argument.lastIndexOf(':');
  const split = colon > 0 ? [{ dir: argument.slice(0, colon), tag: argument.slice(colon + 1) }] : [];
  for (const place of [{ dir: argument }, ...split]) {
    const file = await open(join(place.dir, 'oci-layout'), PLAIN).catch(() => undefined);
    if (file !== undefined) {
      await file.close();
      return place;
    }
  }
  return undefined;
}

/**
 * The archive in a checkpoint image; whoever reads it to its end knows that it is what the manifest names.
 * @param tag absent: the only image of the layout
 * @throws CheckpointCorrupt a blob is not what its name says; InvalidInput no such image, or none of a checkpoint
 */
export async function* readImageArchive(dir: string, tag?: string): AsyncGenerator<Uint8Array> {
  const named = await readManifest(dir, tag);
  const { layers } = parseJson(manifest, named.text, `the manifest ${named.digest}`);
  const [layer, ...others] = layers;
  if (layer === undefined || others.length > 0) {
    const what = `the image ${tag ?? named.digest} has ${layers.length} layers: a checkpoint image has one`;
    throw new KybernateError('InvalidInput', what, { details: { dir } });
  }
  yield* readBlob(dir, layer);
}

async function readManifest(dir: string, tag: string | undefined): Promise<{ text: string; digest: string }> {
  let list = parseJson(layoutIndex, await readIndex(dir), `${dir}/index.json`).manifests;
  for (let depth = 0; depth < MAX_DEPTH; depth += 1) {
    const tagged =
      depth > 0 || tag === undefined ? list : list.filter(({ annotations }) => annotations?.[TAG_ANNOTATION] === tag);
    const [one, ...others] = tagged;
    if (one === undefined || others.length > 0) {
      const tags = list.map(({ annotations }) => annotations?.[TAG_ANNOTATION] ?? 'without a tag');
      const wanted = tag === undefined ? 'name one image: <directory>:<tag>' : `not one image has the tag ${tag}`;
      throw new KybernateError('InvalidInput', `${dir} has ${list.length} images (${tags.join(', ')}): ${wanted}`);
    }
    const text = await readText(dir, one);
    if (!/index|list/.test(one.mediaType)) {
      return { text, digest: one.digest };
    }
    list = parseJson(layoutIndex, text, `the index ${one.digest}`).manifests;
  }
  throw refused(`${dir}/index.json names an index of an index of an index`);
}

async function readIndex(dir: string): Promise<string> {
  const handle = await openPlainFile(join(dir, 'index.json'));
  try {
    const { size } = await handle.stat();
    if (size > MAX_JSON_BYTES) {
      throw refused(`${dir}/index.json has ${size} bytes, more than ${MAX_JSON_BYTES}`);
    }
    return await handle.readFile('utf8');
  } finally {
    await handle.close();
  }
}

async function readText(dir: string, { digest: name, size, mediaType }: Descriptor): Promise<string> {
  if (size > MAX_JSON_BYTES) {
    throw refused(`the blob ${name} has ${size} bytes, more than ${MAX_JSON_BYTES}`);
  }
  const pieces: Uint8Array[] = [];
  for await (const piece of readBlob(dir, { digest: name, size, mediaType })) {
    pieces.push(Uint8Array.from(piece));
  }
  return Buffer.concat(pieces).toString('utf8');
}

/** Its end is an error when it is not what it is called. */
async function* readBlob(dir: string, { digest: name, size }: Descriptor): AsyncGenerator<Uint8Array> {
  const handle = await openPlainFile(join(dir, 'blobs/sha256', name.slice('sha256:'.length)));
  try {
    const hash: Hash = createHash('sha256');
    let bytes = 0;
    for (;;) {
      // A new one each time: a decompressor reads it while the next is asked for.
      const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, bytes);
      if (bytesRead === 0) {
        break;
      }
      bytes += bytesRead;
      const piece = buffer.subarray(0, bytesRead);
      hash.update(piece);
      yield piece;
    }
    const found = `sha256:${hash.digest('hex')}`;
    if (bytes !== size || found !== name) {
      throw refused(`the blob ${name} of ${dir} has ${bytes} bytes and the digest ${found}`);
    }
  } finally {
    await handle.close();
  }
}

/** Nothing is read through a link: the directory may have come from anywhere. */
async function openPlainFile(path: string): Promise<FileHandle> {
  let handle: FileHandle;
  try {
    handle = await open(path, PLAIN);
  } catch (error) {
    throw refused(`${path} cannot be read: ${messageOf(error)}`);
  }
  if (!(await handle.stat()).isFile()) {
    await handle.close();
    throw refused(`${path} is no file`);
  }
  return handle;
}

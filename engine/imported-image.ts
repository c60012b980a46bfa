/*
 * The layers that a container's own lies on, where the checkpoint cannot name them. The engine of an imported container knew
 * the image by name and by the digest of its configuration; containerd of this node, which may have it from somewhere else,
 * knows which snapshot that is. And a container in a user namespace may lie on a copy of its image with other owners, which
 * containerd's client made for that mapping and which is gone with the last container on it, or was never on this node: the
 * snapshotter shows the image itself as those users'. Source: containerd 2.4, client/container_opts_unix.go.
 *
 *   chain id of layers 1..n = sha256(chain id of 1..n-1 + " " + diff id of n); that of one layer is its diff id
 *   Source: OCI image-spec, config.md, "Layer ChainID".
 */
import { createHash } from 'node:crypto';
import * as z from 'zod';
import { isKybernateError } from '../core/errors.ts';
import { idMappingOf } from '../core/oci/user-namespace.ts';
import type { Captured } from './captured.ts';
import type { NodeDeps } from './node-deps.ts';

/** An index or a manifest of an image; larger ones are not read. */
const MAX_BYTES = 4 * 2 ** 20;
/** Go's name of this machine. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

const descriptor = z.looseObject({
  digest: z.string(),
  platform: z.looseObject({ architecture: z.string(), os: z.string() }).optional(),
});
const index = z.looseObject({ manifests: z.array(descriptor) });
const manifest = z.looseObject({ config: descriptor });
const config = z.looseObject({ rootfs: z.looseObject({ diff_ids: z.array(z.string()) }) });

/** What a snapshotter has that shows layers as other users' than they are. */
export const REMAPS_IDS = 'remap-ids';

type Layers = Pick<NodeDeps, 'containerd'>;

/**
 * The same, with image and parent snapshot where the checkpoint does not name what is here.
 * @param namespace of containerd, in which the container is to be
 * @returns unchanged when the layers are named, and when the image is not here: a preflight says so
 */
export async function withImageHere(deps: Layers, namespace: string, captured: Captured): Promise<Captured> {
  const { metadata } = captured;
  const wanted = metadata.origin?.image;
  if (metadata.rootfs.parent !== undefined) {
    return withLayersRemapped(deps, namespace, captured);
  }
  const here = wanted === undefined ? undefined : await topLayer(deps, namespace, wanted.name);
  if (here === undefined) {
    return captured;
  }
  return {
    ...captured,
    metadata: {
      ...metadata,
      container: { ...metadata.container, image: here.image },
      rootfs: { ...metadata.rootfs, parent: here.chainId, snapshotter: 'overlayfs' },
    },
  };
}

async function withLayersRemapped(deps: Layers, namespace: string, captured: Captured): Promise<Captured> {
  const { metadata, spec } = captured;
  const { rootfs, container } = metadata;
  const { parent, snapshotter } = rootfs;
  const idMapping = idMappingOf(spec);
  if (idMapping === undefined || rootfs.idMapping !== undefined || parent === undefined || snapshotter === undefined) {
    return captured;
  }
  const remaps = (await deps.containerd.snapshotterCapabilities(snapshotter)).includes(REMAPS_IDS);
  if (!remaps || (await deps.containerd.statSnapshot(namespace, snapshotter, parent)) !== undefined) {
    return captured;
  }
  const here = container.image === undefined ? undefined : await topLayer(deps, namespace, container.image.ref);
  return here === undefined || here.image.digest !== container.image?.digest
    ? captured
    : { ...captured, metadata: { ...metadata, rootfs: { ...rootfs, parent: here.chainId, idMapping } } };
}

/**
 * What Docker and Podman call the id of an image.
 * @param digest of its index or manifest
 * @returns undefined where its manifest is not here any more, as under an image store that keeps layers only
 */
export async function configDigestOf(
  { containerd }: Layers,
  namespace: string,
  digest: string,
): Promise<string | undefined> {
  try {
    return await configOf(digest, (one) => readJson(containerd.readContent(namespace, one)));
  } catch (error) {
    // Of use to other engines alone: nothing that is wrong with an image keeps its container from being captured.
    if (isKybernateError(error)) {
      return undefined;
    }
    throw error;
  }
}

/** @returns undefined when the image is not here */
async function topLayer(
  { containerd }: Layers,
  namespace: string,
  name: string,
): Promise<
  { readonly image: { readonly ref: string; readonly digest: string }; readonly chainId: string } | undefined
> {
  const found = await containerd.getImage(namespace, name);
  const read = (digest: string): Promise<unknown> => readJson(containerd.readContent(namespace, digest));
  const diffIds = found === undefined ? undefined : await diffIdsOf(found.digest, read);
  return found === undefined || diffIds === undefined || diffIds.length === 0
    ? undefined
    : { image: { ref: found.name, digest: found.digest }, chainId: chainId(diffIds) };
}

/** @param diffIds lowest layer first, at least one */
export function chainId(diffIds: readonly string[]): string {
  return diffIds.reduce((below, diffId) => `sha256:${createHash('sha256').update(`${below} ${diffId}`).digest('hex')}`);
}

type Read = (digest: string) => Promise<unknown>;

async function diffIdsOf(digest: string, read: Read): Promise<string[] | undefined> {
  const found = await configOf(digest, read);
  const settings = found === undefined ? undefined : config.safeParse(await read(found));
  return settings?.data?.rootfs.diff_ids;
}

/** Digest of its configuration. */
async function configOf(digest: string, read: Read): Promise<string | undefined> {
  const target = await read(digest);
  const list = index.safeParse(target);
  const architecture = ARCHITECTURES[process.arch];
  const mine = list.data?.manifests.find(
    ({ platform }) => platform === undefined || (platform.os === 'linux' && platform.architecture === architecture),
  );
  const image = manifest.safeParse(mine === undefined ? target : await read(mine.digest));
  return image.data?.config.digest;
}

/** Undefined for what is no JSON of a sensible size. */
async function readJson(chunks: AsyncIterable<Uint8Array>): Promise<unknown> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > MAX_BYTES) {
      return undefined;
    }
    parts.push(Uint8Array.from(chunk));
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString('utf8')) as unknown;
  } catch {
    // SyntaxError: no manifest, hence no layers.
    return undefined;
  }
}

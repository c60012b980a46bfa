/*
 * The layers that the own layer of an imported container lies on. Its engine knew the image by name and by the digest of
 * its configuration; containerd of this node, which may have it from somewhere else, knows which snapshot that is.
 *
 *   chain id of layers 1..n = sha256(chain id of 1..n-1 + " " + diff id of n); that of one layer is its diff id
 *   Source: OCI image-spec, config.md, "Layer ChainID".
 */
import { createHash } from 'node:crypto';
import * as z from 'zod';
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

/**
 * The same, with image and parent snapshot where an import could not know them.
 * @param namespace of containerd, in which the container is to be
 * @returns unchanged for a checkpoint of ours, and when the image is not here: a preflight says so
 */
export async function withImageHere(
  { containerd }: Pick<NodeDeps, 'containerd'>,
  namespace: string,
  captured: Captured,
): Promise<Captured> {
  const { metadata } = captured;
  const wanted = metadata.origin?.image;
  if (wanted === undefined || metadata.rootfs.parent !== undefined) {
    return captured;
  }
  const here = await containerd.getImage(namespace, wanted.name);
  const read = (digest: string): Promise<unknown> => readJson(containerd.readContent(namespace, digest));
  const diffIds = here === undefined ? undefined : await diffIdsOf(here.digest, read);
  if (here === undefined || diffIds === undefined || diffIds.length === 0) {
    return captured;
  }
  return {
    ...captured,
    metadata: {
      ...metadata,
      container: { ...metadata.container, image: { ref: here.name, digest: here.digest } },
      rootfs: { ...metadata.rootfs, parent: chainId(diffIds), snapshotter: 'overlayfs' },
    },
  };
}

/** @param diffIds lowest layer first, at least one */
export function chainId(diffIds: readonly string[]): string {
  return diffIds.reduce((below, diffId) => `sha256:${createHash('sha256').update(`${below} ${diffId}`).digest('hex')}`);
}

async function diffIdsOf(digest: string, read: (digest: string) => Promise<unknown>): Promise<string[] | undefined> {
  const target = await read(digest);
  const list = index.safeParse(target);
  const architecture = ARCHITECTURES[process.arch];
  const mine = list.data?.manifests.find(
    ({ platform }) => platform === undefined || (platform.os === 'linux' && platform.architecture === architecture),
  );
  const image = manifest.safeParse(mine === undefined ? target : await read(mine.digest));
  const settings = image.success ? config.safeParse(await read(image.data.config.digest)) : undefined;
  return settings?.data?.rootfs.diff_ids;
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

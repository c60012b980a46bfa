/* The published checkpoints of a store. A checkpoint is what has a manifest; nothing else is listed. */
import { parsePublishedManifest, type PublishedManifest } from '../core/checkpoint/manifest.ts';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { Backend, Reader } from './backend/backend.ts';
import { hexDigestOf } from './digest.ts';
import { checkpointOfManifest, manifestKey, PREFIX } from './keys.ts';
import { forEachLimit } from './limit.ts';
import { parseMetadata } from './metadata.ts';
import { unseal } from './seal.ts';

const PARALLEL_READS = 8;
const NEVER = new AbortController().signal;

export interface RemoteCheckpoint {
  readonly checkpointId: string;
  readonly manifest: PublishedManifest;
  readonly metadata: Metadata;
  /** URL of the manifest */
  readonly remote: string;
}

export interface RemoteList {
  /** in the order of their ids */
  readonly checkpoints: readonly RemoteCheckpoint[];
  /** manifests that are there and cannot be used */
  readonly damaged: ReadonlyArray<{ readonly checkpointId: string; readonly reason: string }>;
}

/** @throws StorageUnavailable, StorageDenied; never for one damaged checkpoint */
export async function listCheckpoints(backend: Backend, signal: AbortSignal = NEVER): Promise<RemoteList> {
  const checkpoints: RemoteCheckpoint[] = [];
  const damaged: Array<{ checkpointId: string; reason: string }> = [];
  await forEachLimit(manifestIds(backend, signal), PARALLEL_READS, signal, async (checkpointId) => {
    try {
      const found = await getManifest(backend, checkpointId, signal);
      checkpoints.push(found);
    } catch (error) {
      if (isKybernateError(error, 'CheckpointCorrupt')) {
        damaged.push({ checkpointId, reason: error.message });
      } else if (!isKybernateError(error, 'CheckpointNotFound')) {
        throw error;
      }
    }
  });
  return { checkpoints: checkpoints.sort(byId), damaged: damaged.sort(byId) };
}

/** Ids of all published checkpoints, in order. */
export async function* manifestIds(backend: Backend, signal: AbortSignal): AsyncGenerator<string> {
  for await (const { key } of backend.list(PREFIX.checkpoints, { signal })) {
    const id = checkpointOfManifest(key);
    if (id !== undefined) {
      yield id;
    }
  }
}

/**
 * @throws CheckpointNotFound; CheckpointCorrupt when manifest or metadata are not what was published;
 *   InvalidInput for an id that is none
 */
export async function getManifest(
  backend: Backend,
  checkpointId: string,
  signal: AbortSignal = NEVER,
): Promise<RemoteCheckpoint> {
  const manifest = await findManifest(backend, checkpointId, signal);
  if (manifest === undefined) {
    throw new KybernateError('CheckpointNotFound', `${backend.url} has no checkpoint ${checkpointId}`, {
      details: { checkpointId, store: backend.url },
    });
  }
  const { text, digest } = manifest.metadata;
  const where = `the metadata of ${checkpointId} in ${backend.url}`;
  const metadata = parseMetadata(text, where);
  const matches = metadata.checkpointId === checkpointId && metadata.merkleRoot === manifest.merkleRoot;
  if (!matches || hexDigestOf(Buffer.from(text)) !== digest) {
    throw new KybernateError('CheckpointCorrupt', `${where} is damaged: it does not belong to the manifest`);
  }
  return { checkpointId, manifest, metadata, remote: `${backend.url}/${manifestKey(checkpointId)}` };
}

/** The manifest as it is, undefined when there is none. @throws CheckpointCorrupt, InvalidInput */
export async function findManifest(
  backend: Reader,
  checkpointId: string,
  signal: AbortSignal,
): Promise<PublishedManifest | undefined> {
  const key = manifestKey(parseCheckpointId(checkpointId));
  const bytes = await backend.get(key, { signal });
  if (bytes === undefined) {
    return undefined;
  }
  const manifest = parsePublishedManifest(unseal(bytes, `${backend.url}/${key}`), `${backend.url}/${key}`);
  if (manifest.checkpointId !== checkpointId) {
    throw new KybernateError('CheckpointCorrupt', `${backend.url}/${key} is of checkpoint ${manifest.checkpointId}`);
  }
  return manifest;
}

function byId(left: { readonly checkpointId: string }, right: { readonly checkpointId: string }): number {
  return left.checkpointId < right.checkpointId ? -1 : 1;
}

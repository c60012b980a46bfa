/* The published checkpoints of a store. A checkpoint is what has a manifest; nothing else is listed. */
import { parseStoredManifest, type PublishedManifest, type StoredManifest } from '../core/checkpoint/manifest.ts';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import { KybernateError } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { Backend, Reader } from './backend/backend.ts';
import { openManifest } from './crypto/manifests.ts';
import { hexDigestOf } from './digest.ts';
import { checkpointOfManifest, manifestKey, PREFIX } from './keys.ts';
import { parseMetadata } from './metadata.ts';
import { unseal } from './seal.ts';

/** Errors that are about one checkpoint and not about the store. */
export const UNREADABLE = ['CheckpointCorrupt', 'KeyUnavailable', 'Incompatible'] as const;
const NEVER = new AbortController().signal;

export interface RemoteCheckpoint {
  readonly checkpointId: string;
  readonly manifest: PublishedManifest;
  readonly metadata: Metadata;
  /** URL of the manifest */
  readonly remote: string;
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
 *   KeyUnavailable when it is encrypted for others; InvalidInput for an id that is none
 */
export async function getManifest(
  backend: Backend,
  checkpointId: string,
  signal: AbortSignal = NEVER,
): Promise<RemoteCheckpoint> {
  const stored = await findManifest(backend, checkpointId, signal);
  if (stored === undefined) {
    throw notPublished(backend, checkpointId);
  }
  const remote = `${backend.url}/${manifestKey(checkpointId)}`;
  const manifest = await openManifest(backend.keys, stored, remote, signal);
  const { text, digest } = manifest.metadata;
  const where = `the metadata of ${checkpointId} in ${backend.url}`;
  const metadata = parseMetadata(text, where);
  const matches = metadata.checkpointId === checkpointId && metadata.merkleRoot === manifest.merkleRoot;
  if (!matches || hexDigestOf(Buffer.from(text)) !== digest) {
    throw new KybernateError('CheckpointCorrupt', `${where} is damaged: it does not belong to the manifest`);
  }
  return { checkpointId, manifest, metadata, remote };
}

export function notPublished({ url }: Reader, checkpointId: string): KybernateError {
  return new KybernateError('CheckpointNotFound', `${url} has no checkpoint ${checkpointId}`, {
    details: { checkpointId, store: url },
  });
}

/**
 * The manifest as it is, sealed where it is encrypted; undefined when there is none.
 * @throws CheckpointCorrupt, Incompatible, InvalidInput
 */
export async function findManifest(
  backend: Reader,
  checkpointId: string,
  signal: AbortSignal,
): Promise<StoredManifest | undefined> {
  const key = manifestKey(parseCheckpointId(checkpointId));
  const bytes = await backend.get(key, { signal });
  if (bytes === undefined) {
    return undefined;
  }
  const manifest = parseStoredManifest(unseal(bytes, `${backend.url}/${key}`), `${backend.url}/${key}`);
  if (manifest.checkpointId !== checkpointId) {
    throw new KybernateError('CheckpointCorrupt', `${backend.url}/${key} is of checkpoint ${manifest.checkpointId}`);
  }
  return manifest;
}

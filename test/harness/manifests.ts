/* Published manifests without packs: for tests and measurements of what reads manifests only. */
import { createHash } from 'node:crypto';
import { encodePublishedManifest, FORMAT_VERSION, HASH_NAME } from '../../core/checkpoint/manifest.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { hexDigestOf } from '../../store/digest.ts';
import { manifestKey } from '../../store/keys.ts';
import { seal } from '../../store/seal.ts';
import { sampleMetadata } from './checkpoint-dir.ts';

/** @param more replaces fields of the sample's metadata */
export async function putManifest(
  backend: Backend,
  checkpointId: string,
  packs: Array<[id: string, bytes: number]>,
  more: Partial<Metadata> = {},
): Promise<void> {
  const merkleRoot = createHash('sha256').update(checkpointId).update(JSON.stringify(packs)).digest('hex');
  const totalBytes = packs.reduce((sum, [, bytes]) => sum + bytes, 0);
  const text = JSON.stringify({ ...sampleMetadata(checkpointId, { merkleRoot, totalBytes }), ...more });
  const manifest = encodePublishedManifest({
    version: FORMAT_VERSION,
    checkpointId,
    hash: HASH_NAME,
    merkleRoot,
    publishedAt: new Date().toISOString(),
    totalBytes,
    files: { digest: hexDigestOf(Buffer.from(checkpointId)), bytes: 1 },
    packs,
    metadata: { text, digest: hexDigestOf(Buffer.from(text)) },
  });
  await backend.put(manifestKey(checkpointId), seal(manifest));
}

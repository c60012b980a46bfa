/* The mark of mark and sweep: which packs the manifests of a store name. */
import type { StoredManifest } from '../../core/checkpoint/manifest.ts';
import { isKybernateError, KybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import { findManifest, manifestIds } from '../catalog.ts';
import { DigestTable } from '../digest-table.ts';
import { publicationDigest } from '../file-list.ts';
import { forEachLimit } from '../limit.ts';

const PARALLEL_READS = 16;
const PACK_ID_BYTES = 16;

export interface Marks {
  /** by id */
  readonly checkpoints: ReadonlyMap<string, MarkedCheckpoint>;
  isUsed(pack: string): boolean;
}

export interface MarkedCheckpoint {
  /** ISO time */
  readonly publishedAt: string;
  /** first 16 digits of every digest in the manifest: objects beside it are named by them */
  readonly digests: readonly string[];
}

/**
 * Reads every manifest, several at a time. Holds 24 bytes a pack, and the ids of the checkpoints.
 * A checkpoint that is removed meanwhile may count or not; one that was published before the call counts.
 * @throws CheckpointCorrupt when a manifest cannot be read: it could name any pack, so none may go; StorageDenied,
 *   StorageUnavailable: what cannot be looked at is not absent
 */
export async function markUsedPacks(backend: Backend, op: Op): Promise<Marks> {
  const used = new DigestTable(PACK_ID_BYTES);
  const checkpoints = new Map<string, MarkedCheckpoint>();
  const damaged: string[] = [];
  let bytesDone = 0;
  await forEachLimit(manifestIds(backend, op.signal), PARALLEL_READS, op.signal, async (id) => {
    const manifest = await manifestOrDamaged(backend, id, op.signal);
    if (manifest === 'damaged') {
      damaged.push(id);
    } else if (manifest !== undefined) {
      checkpoints.set(id, { publishedAt: manifest.publishedAt, digests: digestsOf(manifest) });
      manifest.packs.forEach(([pack]) => used.add(keyOf(pack)));
      bytesDone += manifest.totalBytes;
    }
    op.progress({ phase: 'marking', bytesDone });
  });
  if (damaged.length > 0) {
    const some = damaged.sort().slice(0, 10);
    throw new KybernateError(
      'CheckpointCorrupt',
      `${damaged.length} manifests of ${backend.url} cannot be read (${some.join(', ')}): damaged, or of a newer version. They could name any pack, so no pack is deleted`,
      { details: { checkpoints: some, remedy: 'repair these checkpoints, or remove them with `kybernate rm`' } },
    );
  }
  return { checkpoints, isUsed: (pack) => used.find(keyOf(pack)) !== undefined };
}

async function manifestOrDamaged(
  backend: Backend,
  id: string,
  signal: AbortSignal,
): Promise<StoredManifest | 'damaged' | undefined> {
  try {
    return await findManifest(backend, id, signal);
  } catch (error) {
    if (isKybernateError(error, 'CheckpointCorrupt') || isKybernateError(error, 'Incompatible')) {
      return 'damaged';
    }
    throw error;
  }
}

/** Those that stand in the names of objects beside the manifest, as many digits. */
function digestsOf(manifest: StoredManifest): string[] {
  const list = 'files' in manifest ? manifest.files : manifest.encryption.list;
  return [list.digest, publicationDigest(manifest)].map((digest) => digest.slice(0, 16));
}

function keyOf(pack: string): Uint8Array {
  return Buffer.from(pack, 'hex');
}

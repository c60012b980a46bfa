/* What of a checkpoint lies in which tier, as a whole and by segment. */
import type { CheckpointResidency, SegmentResidency, TierShare } from '../../core/contract/tiers.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Reader } from '../backend/backend.ts';
import { findManifest } from '../catalog.ts';
import type { ReadPlan } from '../read-plan.ts';
import type { Tier } from './tier.ts';

/**
 * By tier, fastest first: packs of the checkpoint that are there as long as they must be.
 * @throws CheckpointNotFound
 */
export async function findResidency(
  backend: Reader,
  tiers: readonly Tier[],
  checkpointId: string,
  signal: AbortSignal,
): Promise<CheckpointResidency> {
  const { packs: published } = await packsOf(backend, checkpointId, signal);
  const shares = tiers.map((tier): TierShare => {
    const here = tier.packs();
    const packs = published.filter(([id, bytes]) => here.get(id) === bytes);
    const pin = tier.pins.list().find(({ checkpointId: pinned }) => pinned === checkpointId);
    return {
      tier: tier.name,
      packs: packs.length,
      bytes: packs.reduce((sum, [, bytes]) => sum + bytes, 0),
      ...(pin === undefined ? {} : { pinned: pin.expiresAt ?? 'always' }),
    };
  });
  return {
    checkpointId,
    packs: published.length,
    bytes: published.reduce((sum, [, bytes]) => sum + bytes, 0),
    tiers: shares,
  };
}

/** The packs of a published checkpoint; needs no keys. @throws CheckpointNotFound */
export async function packsOf(
  backend: Reader,
  checkpointId: string,
  signal: AbortSignal,
): Promise<{ readonly packs: ReadonlyArray<readonly [id: string, bytes: number]> }> {
  const manifest = await findManifest(backend, checkpointId, signal);
  if (manifest === undefined) {
    throw new KybernateError('CheckpointNotFound', `${backend.url} has no checkpoint ${checkpointId}`, {
      details: { checkpointId, store: backend.url },
    });
  }
  return manifest;
}

export interface Segment {
  /** path in the checkpoint, for example `criu/pages-1.img` */
  readonly file: string;
  readonly offset: number;
  readonly bytes: number;
}

/**
 * By tier, fastest first: how much of a file's range could be read from there, counted in stored bytes of its chunks.
 * Zeros are stored nowhere and count nowhere.
 */
export function segmentResidency(tiers: readonly Tier[], plan: ReadPlan, segment: Segment): SegmentResidency {
  const end = segment.offset + segment.bytes;
  const byPack = new Map<string, { chunks: number; bytes: number }>();
  for (const { pack, chunks } of plan.reads) {
    for (const { chunk, entry } of chunks) {
      const isWanted = plan
        .occurrences(chunk)
        .some(
          ({ file, offset }) =>
            plan.manifest.files[file]?.path === segment.file &&
            offset < end &&
            offset + entry.rawBytes > segment.offset,
        );
      if (isWanted) {
        const sum = byPack.get(pack) ?? { chunks: 0, bytes: 0 };
        byPack.set(pack, { chunks: sum.chunks + 1, bytes: sum.bytes + entry.storedBytes });
      }
    }
  }
  const sumOf = (
    packs: ReadonlyArray<readonly [string, { chunks: number; bytes: number }]>,
  ): Pick<SegmentResidency, 'packs' | 'chunks' | 'bytes'> => ({
    packs: packs.length,
    chunks: packs.reduce((sum, [, { chunks }]) => sum + chunks, 0),
    bytes: packs.reduce((sum, [, { bytes }]) => sum + bytes, 0),
  });
  const all = [...byPack];
  return {
    ...segment,
    ...sumOf(all),
    tiers: tiers.map((tier) => {
      const here = tier.packs();
      return { tier: tier.name, ...sumOf(all.filter(([pack]) => here.has(pack))) };
    }),
  };
}

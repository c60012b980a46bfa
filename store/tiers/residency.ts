/* What of a checkpoint lies in which tier, as a whole and by segment. */
import type { PublishedManifest } from '../../core/checkpoint/manifest.ts';
import type { CheckpointResidency, SegmentResidency, TierShare } from '../../core/contract/tiers.ts';
import type { ReadPlan } from '../read-plan.ts';
import type { Tier } from './tier.ts';

/** By tier, fastest first: packs of the checkpoint that are there as long as they must be. */
export function residencyOf(tiers: readonly Tier[], published: PublishedManifest): CheckpointResidency {
  const shares = tiers.map((tier): TierShare => {
    const here = tier.packs();
    const packs = published.packs.filter(([id, bytes]) => here.get(id) === bytes);
    const pin = tier.pins.list().find(({ checkpointId }) => checkpointId === published.checkpointId);
    return {
      tier: tier.name,
      packs: packs.length,
      bytes: packs.reduce((sum, [, bytes]) => sum + bytes, 0),
      ...(pin === undefined ? {} : { pinned: pin.expiresAt ?? 'always' }),
    };
  });
  return {
    checkpointId: published.checkpointId,
    packs: published.packs.length,
    bytes: published.packs.reduce((sum, [, bytes]) => sum + bytes, 0),
    tiers: shares,
  };
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

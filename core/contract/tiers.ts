/* What a node tells of its tiers. All plain JSON; sizes are bytes. */

export interface TierInfo {
  readonly tier: 'ram' | 'nvme';
  readonly dir: string;
  readonly budgetBytes: number;
  readonly usedBytes: number;
  /** of packs with a pin */
  readonly pinnedBytes: number;
  readonly packs: number;
  readonly objects: number;
  /** expiry as ISO time; absent: until it is unpinned */
  readonly pins: ReadonlyArray<{ readonly checkpointId: string; readonly expiresAt?: string }>;
}

export interface TierShare {
  readonly tier: 'ram' | 'nvme';
  readonly packs: number;
  readonly bytes: number;
  /** ISO time of the pin's end, or `always`; absent: not pinned */
  readonly pinned?: string;
}

export interface CheckpointResidency {
  readonly checkpointId: string;
  /** of the whole checkpoint, as stored */
  readonly packs: number;
  readonly bytes: number;
  /** fastest first */
  readonly tiers: readonly TierShare[];
}

/** `GET /v1/tiers` of a sidecar. */
export interface TiersReport {
  /** fastest first */
  readonly tiers: readonly TierInfo[];
  /** of the checkpoint that was asked for */
  readonly residency?: CheckpointResidency;
  /** of its file that was asked for */
  readonly segment?: SegmentResidency;
}

export interface SegmentShare {
  readonly packs: number;
  readonly chunks: number;
  /** of the chunks, as stored */
  readonly bytes: number;
}

export interface SegmentResidency extends SegmentShare {
  readonly file: string;
  readonly offset: number;
  readonly tiers: ReadonlyArray<SegmentShare & { readonly tier: 'ram' | 'nvme' }>;
}

import type { PrefetchStepInput, PrefetchStepResult } from '../../core/contract/prefetch.ts';
import { prefetchCheckpoint } from '../../store/tiers/prefetch.ts';
import type { TieredBackend } from '../../store/tiers/tiered.ts';
import type { ActivityOp } from '../op.ts';

/** Brings the packs of a checkpoint to a tier of this node. What is there is the cursor: an attempt brings the rest. */
export async function prefetchPacks(
  backend: TieredBackend,
  op: ActivityOp,
  { checkpointId, tier, pin }: PrefetchStepInput,
): Promise<PrefetchStepResult> {
  const startedMs = performance.now();
  const { expiresAfterMs } = pin ?? {};
  const expiresAt = expiresAfterMs === undefined ? undefined : new Date(Date.now() + expiresAfterMs).toISOString();
  const prefetched = await prefetchCheckpoint({
    checkpointId,
    backend,
    tier,
    op,
    ...(pin === undefined ? {} : { pin: expiresAt === undefined ? {} : { expiresAt } }),
  });
  return { ...prefetched, seconds: (performance.now() - startedMs) / 1000 };
}

import type { Metadata } from '../core/checkpoint/metadata.ts';
import type { ResolveResult } from '../core/contract/restore.ts';

/** What the workflow is told of a checkpoint: references and sizes, never the metadata itself. */
export function resolvedFrom(from: ResolveResult['from'], metadata: Metadata): ResolveResult {
  const { namespace, id } = metadata.container;
  return {
    from,
    totalBytes: metadata.sizes.totalBytes,
    merkleRoot: metadata.merkleRoot,
    sourceContainer: { namespace, id },
    gpuProcesses: metadata.gpuProcesses.length,
  };
}

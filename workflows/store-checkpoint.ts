/* The way of a checkpoint from the disk of its node to the store. */
import type { CheckpointInput } from '../core/contract/checkpoint.ts';
import type { ProgressTracker } from './progress.ts';
import type { NodeProxies } from './proxies.ts';

export interface Stored {
  readonly sentBytes: number;
  readonly remote?: string;
}

/** As far as `durability` says. */
export async function storeCheckpoint(
  steps: Pick<NodeProxies, 'transfer' | 'note' | 'readback'>,
  progress: ProgressTracker,
  wanted: { readonly checkpointId: string; readonly durability: CheckpointInput['durability'] },
): Promise<Stored> {
  const { checkpointId, durability } = wanted;
  if (durability === 'local') {
    return { sentBytes: 0 };
  }
  progress.enter('uploading');
  const upload = await steps.transfer.uploadImage({ checkpointId });
  progress.enter('publishing');
  const { remote } = await steps.transfer.publishManifest({ checkpointId });
  await steps.note.confirmUpload({ checkpointId });
  if (durability === 'verified') {
    progress.enter('verifying');
    await steps.readback.verifyRemote({ checkpointId });
  }
  return { sentBytes: upload.sentBytes, remote };
}

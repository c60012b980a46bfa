/* The end of a restore whose processes run. */
import { CancellationScope, log } from '@temporalio/workflow';
import type { RestoreStepInput } from '../activities/contract.ts';
import { messageOf } from '../core/errors.ts';
import type { Compensation } from './compensation.ts';
import type { ContainerLockClient } from './lock-client.ts';
import type { NodeProxies } from './proxies.ts';

/**
 * The processes run: what is left is tidying, which neither a cancellation nor an error may turn into a failed restore.
 */
export async function letGo(
  steps: NodeProxies,
  step: RestoreStepInput,
  lock: ContainerLockClient,
  undo: Compensation,
): Promise<string[]> {
  const warnings: string[] = [];
  await CancellationScope.nonCancellable(async () => {
    try {
      await steps.thaw.releaseRestoreLease(step);
    } catch (error) {
      // Any failure of the step: the lease runs out by itself, the container is unharmed.
      log.warn('the lease on the images was not released', { error: messageOf(error) });
      warnings.push(`the lease on the images was not released: ${messageOf(error)}`);
    }
    lock.release();
  });
  undo.settle('releaseRestoreLease');
  undo.settle('releaseLock');
  return warnings;
}

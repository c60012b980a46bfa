/* Counts what the agent does for others than our own steps, which are counted by their results (activities/observe.ts). */
import type { CheckpointContainerResponse } from '../core/contract/agent-checkpoint.ts';
import type { CompleteRestoreRequest, CompleteRestoreResponse } from '../core/contract/restore.ts';
import type { Meter } from '../core/metrics.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { readRestore } from '../engine/restore-operation.ts';

/** A restore that kubelet, Docker or somebody else asked for by an annotation. */
export async function countedComplete(
  { meter, settings }: { readonly meter: Meter; readonly settings: NodeDeps['settings'] },
  word: CompleteRestoreRequest,
  act: () => Promise<CompleteRestoreResponse>,
): Promise<CompleteRestoreResponse> {
  // Asked before: its record goes with its end.
  const isOthers = readRestore(settings, word.operationId)?.madeBy === 'others';
  const begun = performance.now();
  const answer = await act();
  if (isOthers && word.outcome !== 'failed' && answer.proceed) {
    const seconds = (word.restoreMs + performance.now() - begun) / 1000;
    meter.observe('kybernate_restore_seconds', { how: word.outcome }, seconds);
  } else if (isOthers) {
    const type = word.errorType ?? 'RestoreFailed';
    meter.add('kybernate_step_failures_total', { step: 'completeRestore', type });
  }
  return answer;
}

/** A `runc checkpoint` of containerd's shim. */
export function countCheckpoint(meter: Meter, done: CheckpointContainerResponse): CheckpointContainerResponse {
  if (done.handled) {
    meter.observe('kybernate_freeze_seconds', {}, done.freezeMs / 1000);
    meter.add('kybernate_vram_bytes_total', { operation: 'checkpoint' }, done.vramBytes);
  }
  return done;
}

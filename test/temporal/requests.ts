/* Requests that a scenario starts with, named after its workflow id. */
import type { CheckpointRequest } from '../../core/contract/checkpoint.ts';
import type { RehearseRequest } from '../../core/contract/gpu.ts';
import type { PrefetchRequest } from '../../core/contract/prefetch.ts';
import type { RestoreRequest } from '../../core/contract/restore.ts';

export const NODE = 'node-a';
/** As the kubelet names it. */
export const ARCHIVE = '/var/lib/kubelet/checkpoints/checkpoint-web-0_ml-app-2026-03-01T00:00:00Z.tar';
/** Small enough that a test does not wait, large enough for a busy machine. */
export const TIMEOUTS = { nodePickupMs: 5000, heartbeatMs: 1000, lockWaitMs: 20_000, stepMs: 20_000, uploadMs: 30_000 };

export function checkpointOf(id: string, request: Partial<CheckpointRequest>): CheckpointRequest {
  return { node: NODE, container: { id }, checkpointId: `ck-${id.toLowerCase()}`, timeouts: TIMEOUTS, ...request };
}

export function restoreOf(id: string, request: Partial<RestoreRequest>): RestoreRequest {
  return { node: NODE, checkpointId: `ck-${id.toLowerCase()}`, container: { id }, timeouts: TIMEOUTS, ...request };
}

export function rehearseOf(id: string, request: Partial<RehearseRequest>): RehearseRequest {
  return { node: NODE, container: { id }, timeouts: TIMEOUTS, ...request };
}

export function prefetchOf(id: string, request: Partial<PrefetchRequest>): PrefetchRequest {
  return { nodes: [NODE], checkpointId: `ck-${id.toLowerCase()}`, timeouts: TIMEOUTS, ...request };
}

/** For `verifyCheckpoint` and `repairCheckpoint`. */
export function copiesOf(timeouts: object = TIMEOUTS): object {
  return { checkpointId: 'ck-copies', node: NODE, timeouts };
}

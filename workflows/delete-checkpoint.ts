import { CancellationScope } from '@temporalio/workflow';
import {
  deleteCheckpointInput,
  type CopyRemoval,
  type DeleteCheckpointRequest,
  type DeleteCheckpointResult,
} from '../core/contract/delete-checkpoint.ts';
import { Compensation } from './compensation.ts';
import { asFailure } from './failures.ts';
import { runOperation } from './operation.ts';
import { OUTCOME_COMPLETED, ProgressTracker, parseRequest } from './progress.ts';
import { garbageProxy, nodeProxies } from './proxies.ts';

/** Stands in the place of a node's name where none is involved. */
const NODE = 'control';
const MAX_ATTRIBUTE = 255;

/**
 * Removes a checkpoint from the store and from the nodes that are named. Every node is asked before anything goes, and the
 * store goes first: what is in use, or on a node that does not answer, stays everywhere. Idempotent: what is gone already
 * is told in the result, and the same request again finishes what was cut off. Nothing is undone.
 */
export async function deleteCheckpoint(request: DeleteCheckpointRequest): Promise<DeleteCheckpointResult> {
  const input = parseRequest(deleteCheckpointInput, request);
  const { checkpointId, nodes, store, force, timeouts } = input;
  const node = nodes.length === 0 ? NODE : nodes.join(',').slice(0, MAX_ATTRIBUTE);
  const progress = new ProgressTracker({ node, container: checkpointId, checkpointId, firstPhase: 'probing' });
  const removal = { checkpointId, force };
  const copies = nodes.map((name) => ({
    name,
    steps: nodeProxies({ node: name, timeouts, summary: `${checkpointId} on ${name}` }),
  }));
  const frame = {
    node,
    progress,
    undo: new Compensation(),
    delivered: () => Promise.resolve(),
    outcome: (result: DeleteCheckpointResult) => (foundAny(result) ? OUTCOME_COMPLETED : 'CheckpointNotFound'),
  };
  return runOperation(frame, async () => {
    for (const { name, steps } of copies) {
      await onNode(name, () => steps.probe.checkUnused(removal));
    }
    progress.enter('deleting');
    const stored = store ? await garbageProxy(checkpointId).removeStored(removal) : undefined;
    const removed: Array<CopyRemoval & { node: string }> = [];
    for (const { name, steps } of copies) {
      removed.push({ node: name, ...(await onNode(name, () => steps.thaw.removeCopy(removal))) });
    }
    return { checkpointId, ...(stored === undefined ? {} : { store: stored }), nodes: removed };
  });
}

function foundAny({ store, nodes }: DeleteCheckpointResult): boolean {
  return store?.found === true || nodes.some(({ found }) => found);
}

/** An error names the one node that it is of. */
async function onNode<Result>(node: string, act: () => Promise<Result>): Promise<Result> {
  try {
    return await act();
  } catch (error) {
    // What a step fails with while the operation is cancelled is not why it ends.
    throw CancellationScope.current().consideredCancelled ? error : asFailure(error, node);
  }
}

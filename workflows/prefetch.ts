import { CancellationScope, CancelledFailure, isCancellation, log } from '@temporalio/workflow';
import type { RestoreStepInput } from '../activities/contract.ts';
import {
  prefetchInput,
  type PrefetchedNode,
  type PrefetchFailed,
  type PrefetchInput,
  type PrefetchRequest,
  type PrefetchResult,
  type PrefetchStepResult,
} from '../core/contract/prefetch.ts';
import { isErrorType, messageOf } from '../core/errors.ts';
import { Compensation } from './compensation.ts';
import { failure, outcomeOf, typeOf } from './failures.ts';
import { runOperation } from './operation.ts';
import { checkProtocol } from './probe.ts';
import { OUTCOME_COMPLETED, ProgressTracker, parseRequest } from './progress.ts';
import { nodeProxies, type NodeProxies } from './proxies.ts';

/** What `KybernateOutcome` says when it worked on some nodes and not on others. */
export const OUTCOME_PARTIAL = 'Partial';
const MAX_ATTRIBUTE = 255;

/**
 * Brings a checkpoint to tiers of nodes, to all of them at once. A node that fails is told in the result and does not
 * keep the others from it; when all fail, the operation does, with the error of the first. What was brought stays: the
 * same request again brings the rest.
 */
export async function prefetch(request: PrefetchRequest): Promise<PrefetchResult> {
  const input = parseRequest(prefetchInput, request);
  const { checkpointId, nodes, tier, timeouts } = input;
  const node = nodes.join(',').slice(0, MAX_ATTRIBUTE);
  const progress = new ProgressTracker({ node, container: checkpointId, checkpointId, firstPhase: 'fetching' });
  const frame = {
    node,
    progress,
    undo: new Compensation(),
    delivered: () => Promise.resolve(),
    outcome: (result: PrefetchResult) =>
      result.nodes.every(({ outcome }) => outcome === 'done') ? OUTCOME_COMPLETED : OUTCOME_PARTIAL,
  };
  return runOperation(frame, async () => {
    const each = nodes.map(async (name): Promise<PrefetchedNode> => {
      const steps = nodeProxies({ node: name, timeouts, summary: `${checkpointId} to ${tier} of ${name}` });
      const undo = new Compensation();
      try {
        return { node: name, outcome: 'done', ...(await prefetchTo(steps, name, input, undo)) };
      } catch (error) {
        const report = await CancellationScope.nonCancellable(() => undo.run());
        return failedNode(name, outcomeOf(error, report, name));
      }
    });
    // Also after a failure or a cancellation: none of them may outlive the operation.
    const settled = await Promise.allSettled(each);
    const results = settled.map((one) => {
      if (one.status === 'rejected') {
        throw one.reason;
      }
      return one.value;
    });
    const [first] = results;
    if (first?.outcome === 'failed' && results.every(({ outcome }) => outcome === 'failed')) {
      throw allFailed(
        results.filter((one): one is PrefetchFailed => one.outcome === 'failed'),
        first,
      );
    }
    return { checkpointId, tier, nodes: results };
  });
}

async function prefetchTo(
  steps: NodeProxies,
  node: string,
  input: PrefetchInput,
  undo: Compensation,
): Promise<PrefetchStepResult> {
  const { checkpointId, tier, pin } = input;
  checkProtocol(await steps.probe.probeNode({}), node);
  if (tier === 'local') {
    return fetchTo(steps, node, checkpointId, undo);
  }
  const { expiresAfterMs } = pin ?? {};
  return steps.look.prefetchPacks({
    node,
    checkpointId,
    tier,
    ...(pin === undefined ? {} : { pin: expiresAfterMs === undefined ? {} : { expiresAfterMs } }),
  });
}

/** As a restore does it, without the restore. */
async function fetchTo(
  steps: NodeProxies,
  node: string,
  checkpointId: string,
  undo: Compensation,
): Promise<PrefetchStepResult> {
  const startedMs = Date.now();
  // No container is made and no lock held: the name is only for the record of the lease.
  const step: RestoreStepInput = {
    context: { checkpointId, container: { namespace: 'default', id: 'prefetch' }, token: 0 },
  };
  const local = await steps.probe.resolveLocal({ node, checkpointId, unverified: false, source: 'auto' });
  undo.push('releaseRestoreLease', () => steps.undo.releaseRestoreLease(step));
  const { fetchedBytes } = await steps.fetch.fetchImage({
    context: step.context,
    from: local.found === undefined ? 'store' : 'local',
  });
  await steps.thaw.releaseRestoreLease(step);
  undo.settle('releaseRestoreLease');
  const presentBytes = local.found?.totalBytes ?? 0;
  return {
    bytes: presentBytes + fetchedBytes,
    presentBytes,
    from: fetchedBytes === 0 ? {} : { store: fetchedBytes },
    seconds: (Date.now() - startedMs) / 1000,
  };
}

/** @throws a cancellation: that is of the whole operation */
function failedNode(node: string, failed: unknown): PrefetchFailed {
  if (isCancellation(failed)) {
    throw new CancelledFailure('the operation was cancelled');
  }
  const type = typeOf(failed) ?? 'Internal';
  log.warn('prefetch failed on a node', { node, type, error: messageOf(failed) });
  return { node, outcome: 'failed', error: { type, message: messageOf(failed) } };
}

function allFailed(failed: readonly PrefetchFailed[], first: PrefetchFailed): Error {
  const type = isErrorType(first.error.type) ? first.error.type : 'Internal';
  const others = failed.length === 1 ? '' : `; the other ${failed.length - 1} nodes failed, too`;
  return failure(type, `prefetch to ${first.node}: ${first.error.message}${others}`, {
    node: first.node,
    nodes: failed.map(({ node, error }) => ({ node, ...error })),
  });
}

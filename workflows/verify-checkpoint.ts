import {
  verifyInput,
  type PlaceReport,
  type VerifyInput,
  type VerifyRequest,
  type VerifyResult,
} from '../core/contract/verify.ts';
import { Compensation } from './compensation.ts';
import { failure } from './failures.ts';
import { runOperation } from './operation.ts';
import { OUTCOME_COMPLETED, ProgressTracker, parseRequest } from './progress.ts';
import { nodeProxies, type NodeProxies } from './proxies.ts';

/**
 * Looks whether the copies of a checkpoint are whole, in the store, on a node, or both. Nothing is changed. A damaged
 * copy is a result, not a failure: everything that was found is in it, and `KybernateOutcome` says `CheckpointCorrupt`.
 */
export async function verifyCheckpoint(request: VerifyRequest): Promise<VerifyResult> {
  const input = parseRequest(verifyInput, request);
  const { node, checkpointId, where, mode, timeouts } = input;
  const progress = new ProgressTracker({ node, container: checkpointId, checkpointId, firstPhase: 'verifying' });
  const steps = nodeProxies({ node, timeouts, summary: `${checkpointId} on ${node}` });
  const frame = {
    node,
    progress,
    undo: new Compensation(),
    delivered: () => Promise.resolve(),
    outcome: ({ ok }: VerifyResult) => (ok ? OUTCOME_COMPLETED : 'CheckpointCorrupt'),
  };
  return runOperation(frame, async () => {
    const places = await lookAt(steps, input);
    if (!places.some(({ found }) => found)) {
      throw notFoundAnywhere(checkpointId, places);
    }
    const expected = places.filter(({ found }) => found || where !== 'both');
    return { checkpointId, node, mode, ok: expected.every(({ ok }) => ok), places };
  });
}

/** One copy after the other: they may share a disk. */
export async function lookAt(
  steps: Pick<NodeProxies, 'survey'>,
  { checkpointId, where, mode }: Pick<VerifyInput, 'checkpointId' | 'where' | 'mode'>,
): Promise<PlaceReport[]> {
  const store = where === 'node' ? [] : [await steps.survey.surveyStored({ checkpointId, mode })];
  const here = where === 'store' ? [] : [await steps.survey.surveyNodeCopy({ checkpointId, mode })];
  return [...store, ...here];
}

export function notFoundAnywhere(checkpointId: string, places: readonly PlaceReport[]): Error {
  const looked = places.map(({ where }) => where);
  return failure('CheckpointNotFound', `there is no checkpoint ${checkpointId} in ${looked.join(' nor in ')}`, {
    checkpointId,
  });
}

import { listCopiesInput, type ListCopiesRequest, type ListCopiesResult } from '../core/contract/list-copies.ts';
import { Compensation } from './compensation.ts';
import { runOperation } from './operation.ts';
import { ProgressTracker, parseRequest } from './progress.ts';
import { nodeProxies } from './proxies.ts';

/** Asks a node which checkpoints it has copies of: what no other place has is seen only there. Changes nothing. */
export async function listCopies(request: ListCopiesRequest): Promise<ListCopiesResult> {
  const { node, limit, timeouts } = parseRequest(listCopiesInput, request);
  const progress = new ProgressTracker({ node, container: 'copies', firstPhase: 'probing' });
  const steps = nodeProxies({ node, timeouts, summary: `copies on ${node}` });
  const frame = { node, progress, undo: new Compensation(), delivered: () => Promise.resolve() };
  return runOperation(frame, () => steps.probe.listCopies({ node, limit }));
}

import {
  inspectRestoreInput,
  type InspectRestoreRequest,
  type InspectRestoreResult,
} from '../core/contract/inspect-restore.ts';
import { Compensation } from './compensation.ts';
import { runOperation } from './operation.ts';
import { ProgressTracker, parseRequest } from './progress.ts';
import { nodeProxies } from './proxies.ts';

/** Asks a node whether a pod's container was restored or began afresh. Changes nothing. */
export async function inspectRestore(request: InspectRestoreRequest): Promise<InspectRestoreResult> {
  const { node, pod, timeouts } = parseRequest(inspectRestoreInput, request);
  const container = `${pod.uid}/${pod.container}`;
  const progress = new ProgressTracker({ node, container, firstPhase: 'probing' });
  const steps = nodeProxies({ node, timeouts, summary: `${container} on ${node}` });
  const frame = { node, progress, undo: new Compensation(), delivered: () => Promise.resolve() };
  return runOperation(frame, () => steps.probe.inspectRestore({ node, pod }));
}

/* Connections of a captured workload that is about to end stay locked until a restore takes them over. */
import { holdConnections } from '../native/net/nft.ts';
import type { Run } from '../native/run/run.ts';
import type { CaptureOutcome } from './capture.ts';
import { liveConnections } from './live-processes.ts';
import { holdsConnections, networkHoldTable } from './network-locks.ts';
import type { OperationPlan } from './operation.ts';

/** While CRIU's own lock still holds. @returns undefined where there is nothing to keep */
export async function holdNetwork(plan: OperationPlan, run: Run): Promise<CaptureOutcome['networkHold']> {
  if (!holdsConnections(plan)) {
    return undefined;
  }
  const connections = liveConnections(plan.facts);
  if (connections.length === 0) {
    return undefined;
  }
  const table = networkHoldTable(plan.operationId);
  await holdConnections(run, plan.facts.initHostPid, table, connections);
  return { table, networkNamespace: plan.facts.networkNamespace.path ?? '' };
}

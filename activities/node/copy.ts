/* The copy of a checkpoint on this node: whether it is whole, and a new one from the store where it is not. */
import type { NodeRepair, PlaceReport } from '../../core/contract/verify.ts';
import { claimOperation } from '../../engine/operation-owner.ts';
import { forgetRestore, restoresUsing } from '../../engine/restore-operation.ts';
import { surveyDirectory } from '../../store/survey.ts';
import type { SurveyInput, TransferInput } from '../contract.ts';
import type { ActivityOp } from '../op.ts';
import type { NodeActivityDeps } from './deps.ts';
import { fetchFromStore } from './source-access.ts';

export function surveyNodeCopy(
  { catalog }: NodeActivityDeps,
  op: ActivityOp,
  { checkpointId, mode }: SurveyInput,
): Promise<PlaceReport> {
  return surveyDirectory({ dir: catalog.pathOf(checkpointId), checkpointId, mode, op });
}

/** The old copy goes when the new one is whole, and only while no restore uses it. */
export async function repairNodeCopy(
  deps: NodeActivityDeps,
  op: ActivityOp,
  { checkpointId }: TransferInput,
): Promise<NodeRepair> {
  const { settings } = deps.node;
  const { operationId, workflow } = op;
  const mayReplace = (): boolean => restoresUsing(settings, checkpointId).length === 0;
  claimOperation(settings, operationId, { workflow, checkpointId });
  try {
    const { dir, bytes } = await fetchFromStore(deps, op, { checkpointId, operationId, mayReplace });
    return { localPath: dir, fetchedBytes: bytes };
  } finally {
    forgetRestore(settings, operationId);
  }
}

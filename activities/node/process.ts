/* The steps of a restore of processes; those of their checkpoint are the ones of containers. */
import type { RestoreContext } from '../../core/contract/restore.ts';
import { planProcessRestore, restoreProcess } from '../../engine/restore-process.ts';
import { removeRestoredProcess } from '../../engine/restored-process.ts';
import { checkToken, retireToken } from '../../engine/operation.ts';
import { claimOperation } from '../../engine/operation-owner.ts';
import { asStep } from '../../engine/operation-steps.ts';
import type { NodeActivities, NodeControlActivities } from '../contract.ts';
import { withOp, type ActivityOp } from '../op.ts';
import type { NodeActivityDeps } from './deps.ts';

/** Beyond the budget: what an attempt that died has left is ended first. */
const GRACE_MS = 60_000;

export function processWork({ node }: NodeActivityDeps): Pick<NodeActivities, 'planProcessRestore' | 'restoreProcess'> {
  // Who finds the rest of it asks whether it is still wanted; a fetch of a path has not claimed it.
  const claim = ({ operationId, workflow }: ActivityOp, { checkpointId }: RestoreContext): void =>
    claimOperation(node.settings, operationId, { workflow, ...(checkpointId === undefined ? {} : { checkpointId }) });
  return {
    planProcessRestore: ({ localPath, ...input }) =>
      withOp({}, async (op) => {
        claim(op, input.context);
        const { warnings } = await planProcessRestore(node, { ...input, checkpointDir: localPath });
        return { warnings };
      }),
    restoreProcess: ({ localPath, context, ...input }) =>
      withOp({ phase: 'restoring', stallMs: input.restoreBudgetMs + GRACE_MS }, (op) =>
        asStep(op.operationId, () => {
          claim(op, context);
          checkToken(node.settings, context.container, context.token);
          return restoreProcess(node, op, { ...input, operationId: op.operationId, checkpointDir: localPath });
        }),
      ),
  };
}

export function processControl({ node }: NodeActivityDeps): Pick<NodeControlActivities, 'removeRestoredProcess'> {
  return {
    removeRestoredProcess: ({ context }) =>
      withOp({}, async (op) => {
        retireToken(node.settings, context.container, context.token);
        await asStep(op.operationId, () => removeRestoredProcess(node, op.operationId));
      }),
  };
}

import { KybernateError } from '../../core/errors.ts';
import { createColdContainer } from '../../engine/cold-start.ts';
import { noteTrace, releaseLease } from '../../engine/restore-operation.ts';
import { releaseRestoreLease, removeRestored } from '../../engine/restore-end.ts';
import { createDockerCold, createDockerRestored, planDockerRestore } from '../../engine/docker/restore.ts';
import { startDockerRestored } from '../../engine/docker/start.ts';
import { createRestoreContainer, planRestore, type OperationRun } from '../../engine/restore.ts';
import { startRestored, type RestoreRef } from '../../engine/restore-start.ts';
import type { NodeActivities, NodeControlActivities, RestoreStepInput } from '../contract.ts';
import { withOp, type ActivityOp } from '../op.ts';
import type { NodeActivityDeps } from './deps.ts';
import { readDescription } from './preflight.ts';
import { olderLocal, resolveLocal } from './resolve.ts';

type RestoreWork = 'planRestore' | 'createContainer' | 'createCold' | 'startRestored';
type RestoreControl = 'resolveLocal' | 'olderLocal' | 'removeRestored' | 'releaseRestoreLease';

/** What the engine allows itself beyond the budget before it gives up on the wrapper, with room to spare. */
const BUDGET_GRACE_MS = 120_000;

export function restoreWork(deps: NodeActivityDeps): Pick<NodeActivities, RestoreWork> {
  const { node } = deps;
  return {
    planRestore: ({ localPath, ...input }) =>
      withOp({}, (op) =>
        (input.context.docker === true ? planDockerRestore : planRestore)(node, op, {
          ...input,
          ...runOf(op),
          checkpointDir: localPath,
        }),
      ),
    createContainer: (input) =>
      withOp({}, (op) =>
        (input.context.docker === true ? createDockerRestored : createRestoreContainer)(node, op, {
          ...input,
          ...runOf(op),
        }),
      ),
    createCold: ({ from, ...input }) =>
      withOp({}, async (op) => {
        const { checkpointId } = input.context;
        if (checkpointId === undefined) {
          throw new KybernateError('InvalidInput', 'a path has no specification to start a container from');
        }
        const captured = await readDescription(deps, op, { checkpointId, from });
        const create = input.context.docker === true ? createDockerCold : createColdContainer;
        await create(node, op, { ...input, ...runOf(op), captured });
      }),
    startRestored: (input) =>
      withOp({ phase: 'restoring', stallMs: input.restoreBudgetMs + BUDGET_GRACE_MS }, (op) => {
        noteTrace(node.settings, op.operationId);
        const start = input.context.docker === true ? startDockerRestored : startRestored;
        return start(node, op, { ...input, operationId: op.operationId });
      }),
  };
}

export function restoreControl(deps: NodeActivityDeps): Pick<NodeControlActivities, RestoreControl> {
  const { node } = deps;
  return {
    resolveLocal: (input) => resolveLocal(deps, input),
    olderLocal: (input) => olderLocal(deps, input),
    removeRestored: (input) => withOp({}, (op) => removeRestored(node, op, refOf(op, input))),
    releaseRestoreLease: (input) =>
      withOp({}, async (op) => {
        const { checkpointId } = input.context;
        // Taken by the fetch, which may have failed before the engine wrote its own record of the restore.
        if (checkpointId !== undefined) {
          releaseLease(node.settings, checkpointId, op.operationId);
        }
        await releaseRestoreLease(node, op, refOf(op, input));
      }),
  };
}

function refOf(op: ActivityOp, { context }: RestoreStepInput): RestoreRef {
  return { operationId: op.operationId, container: context.container, token: context.token };
}

function runOf({ operationId, workflow }: ActivityOp): OperationRun {
  return { operationId, workflow };
}

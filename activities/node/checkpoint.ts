import {
  captureContainer,
  discardCapture,
  endOperation,
  resumeContainer,
  saveGpuState,
  startRunner,
  stopContainer,
} from '../../engine/attach.ts';
import { readMetadata } from '../../engine/commit.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { recordRehearsal } from '../../engine/gpu/rehearsals.ts';
import { readPlan } from '../../engine/operation.ts';
import { planCheckpoint } from '../../engine/plan.ts';
import type { OperationRef } from '../../engine/runner-client.ts';
import { forgetSpans, withRunnerSpans } from '../../engine/runner-spans.ts';
import { removePendingMark } from '../../store/publish.ts';
import type { NodeActivities, NodeControlActivities, StepInput, TransferInput } from '../contract.ts';
import { withOp, type ActivityOp } from '../op.ts';
import { commitLocal, forgetEnded } from './commit.ts';
import type { NodeActivityDeps } from './deps.ts';

type CheckpointWork = 'planCheckpoint' | 'startRunner' | 'saveGpuState' | 'captureContainer' | 'commitLocal';
type CheckpointControl =
  | 'resumeContainer'
  | 'stopContainer'
  | 'endOperation'
  | 'discardCapture'
  | 'recordRehearsal'
  | 'abandonUpload'
  | 'confirmUpload';

/** The runner has budgets of its own and says nothing while it works; when it dies, the call to it ends. */
const RUNNER_CALL = { stallMs: 86_400_000 } as const;

/** One fsync of a hundred GB says nothing for many minutes; to start over would only begin it again. */
const SYNC_MS = 3_600_000;

export function checkpointWork(deps: NodeActivityDeps): Pick<NodeActivities, CheckpointWork> {
  const { node } = deps;
  const byRunner = runnerCall(node);
  return {
    planCheckpoint: (input) =>
      withOp({}, (op) => planCheckpoint(node, op, { ...input, operationId: op.operationId, workflow: op.workflow })),
    startRunner: (input) =>
      withOp({}, async (op) => {
        await startRunner(node, op, refOf(op, input));
      }),
    saveGpuState: (input) => byRunner((op) => saveGpuState(node, op, refOf(op, input))),
    captureContainer: (input) => byRunner((op) => captureContainer(node, op, refOf(op, input))),
    commitLocal: (input) => withOp({ phase: 'committing', stallMs: SYNC_MS }, (op) => commitLocal(deps, op, input)),
  };
}

export function checkpointControl({ node, catalog }: NodeActivityDeps): Pick<NodeControlActivities, CheckpointControl> {
  const noUploadPending = ({ checkpointId }: TransferInput): Promise<void> =>
    withOp({}, () => removePendingMark(catalog.pathOf(checkpointId)));
  const byRunner = runnerCall(node);
  return {
    resumeContainer: (input) => byRunner((op) => resumeContainer(node, op, refOf(op, input))),
    stopContainer: (input) => byRunner((op) => stopContainer(node, op, refOf(op, input))),
    endOperation: (input) =>
      withOp({}, async (op) => {
        await endOperation(node, op, refOf(op, input));
        forgetSpans(op.operationId);
        if ((await readMetadata(catalog.pathOf(input.context.checkpointId))) !== undefined) {
          forgetEnded(node, op.operationId);
        }
      }),
    discardCapture: (input) =>
      withOp({}, async (op) => {
        await discardCapture(node, op, refOf(op, input));
      }),
    recordRehearsal: () =>
      withOp({}, async (op) => {
        recordRehearsal(node.settings, readPlan(node.settings, op.operationId)?.gpu.processes ?? []);
      }),
    abandonUpload: noUploadPending,
    confirmUpload: noUploadPending,
  };
}

/** A step that the runner does, or whoever has to do it in its place. */
function runnerCall({ settings }: NodeDeps): <Result>(step: (op: ActivityOp) => Promise<Result>) => Promise<Result> {
  return (step) => withOp(RUNNER_CALL, (op) => withRunnerSpans(settings, op.operationId, () => step(op)));
}

function refOf(op: ActivityOp, { context }: StepInput): OperationRef {
  return { operationId: op.operationId, ...context };
}

import { CancellationScope, condition, setHandler, uuid4, workflowInfo } from '@temporalio/workflow';
import type { StepInput } from '../activities/contract.ts';
import {
  checkpointInput,
  type CaptureResult,
  type CheckpointInput,
  type CheckpointRequest,
  type CheckpointResult,
  type CommitLocalResult,
  type ResumeResult,
} from '../core/contract/checkpoint.ts';
import { newCheckpointId } from '../core/ids.ts';
import { Compensation } from './compensation.ts';
import { ContainerLockClient } from './lock-client.ts';
import { releaseSignal } from './messages.ts';
import { runOperation } from './operation.ts';
import { checkStore, resolvedTarget } from './probe.ts';
import { ProgressTracker, parseRequest, targetName } from './progress.ts';
import { lockProxy, nodeProxies, type NodeProxies } from './proxies.ts';
import { pushResume, resumeWarnings } from './resume-source.ts';
import { checkStandstill } from './standstill.ts';
import { storeCheckpoint, type Stored } from './store-checkpoint.ts';

/**
 * Checkpoints a running container, or a tree of processes. The source stands still only inside `captureContainer` (and until it is let go with
 * `after: hold | stop`). Until the local commit every failure removes what was made; after it nothing takes the
 * checkpoint back: a failed upload leaves it on the node, marked as pending; a cancelled one leaves it there unmarked.
 */
export async function checkpoint(request: CheckpointRequest): Promise<CheckpointResult> {
  const input = parseRequest(checkpointInput, request);
  const { node, timeouts } = input;
  const checkpointId = input.checkpointId ?? newCheckpointId(workflowInfo().startTime.toISOString(), uuid4());
  const container = input.container === undefined ? `process ${input.process?.pid}` : targetName(input.container);
  const progress = new ProgressTracker({ node, container, checkpointId, firstPhase: 'probing' });
  const summary = `${container} on ${node}`;
  const lock = new ContainerLockClient(lockProxy(summary));
  const steps = nodeProxies({ node, timeouts, summary });
  const undo = new Compensation();
  const released = releaseHandler();
  const scope = CancellationScope.current();

  const frame = { node, undo, progress, delivered: () => lock.delivered(), facts: factsOf };
  return runOperation(frame, async () => {
    const { freezeBudgetMs, warnings } = checkStandstill(input, summary);
    const store = input.durability === 'local' ? {} : { store: true };
    const asked = {
      ...(input.container === undefined ? {} : { container: input.container }),
      ...(input.process === undefined ? {} : { process: input.process }),
    };
    const probe = await steps.probe.probeNode({ ...asked, ...store });
    const { source, process } = resolvedTarget(probe, input);
    checkStore(probe, input);
    progress.resolved(`${source.namespace}/${source.id}`);

    progress.enter('locking');
    undo.push('releaseLock', async () => lock.release(), { always: true });
    const token = await lock.acquire({ node, ...source }, { minToken: probe.newestToken, waitMs: timeouts.lockWaitMs });
    const context = { checkpointId, container: source, token };
    const step: StepInput = { context };

    progress.enter('planning');
    undo.push('endOperation', () => steps.undo.endOperation(step));
    undo.push('discardCapture', () => steps.undo.discardCapture(step));
    const { engine, tcp, after, holdBudgetMs, gpu, health, captureVolumes } = input;
    const plan = await steps.capture.planCheckpoint({
      context,
      ...(process === undefined ? {} : { process }),
      engine,
      tcp,
      after,
      freezeBudgetMs,
      holdBudgetMs,
      gpu,
      ...(health === undefined ? {} : { health }),
      ...(captureVolumes === undefined ? {} : { captureVolumes }),
    });
    progress.gpu(plan.gpuProcesses, plan.vramBytes);

    progress.enter('starting-runner');
    pushResume({ steps, step, undo, progress });
    await steps.capture.startRunner(step);

    if (plan.gpuProcesses > 0) {
      progress.enter('saving-gpu');
      progress.standsStill('freeze', freezeBudgetMs);
    }
    const saved = await steps.capture.saveGpuState(step);

    progress.enter('capturing');
    if (saved.gpuProcesses === 0) {
      progress.standsStill('freeze', freezeBudgetMs);
    }
    const captured = await steps.capture.captureContainer(step);
    if (after === 'resume') {
      progress.runs();
    } else {
      progress.standsStill('hold', holdBudgetMs);
    }

    const letGo = (): Promise<ResumeResult> => endCapture({ steps, step, undo, lock, progress }, 'resumeContainer');
    const stop = (): Promise<ResumeResult> => endCapture({ steps, step, undo, lock, progress }, 'stopContainer');
    // Who cancels wants no upload; after a failure the mark stays and says that one was wanted.
    const abandonUpload = async (): Promise<void> =>
      scope.consideredCancelled ? steps.undo.abandonUpload({ checkpointId }) : undefined;
    const commit = async (): Promise<CommitLocalResult> => {
      progress.enter('committing');
      const uploadPending = input.durability !== 'local';
      if (uploadPending) {
        undo.push('abandonUpload', abandonUpload, { last: true });
      }
      const local = await steps.work.commitLocal({ context, labels: input.labels, uploadPending });
      undo.settle('discardCapture');
      progress.committed();
      return local;
    };
    const upload = async (): Promise<Stored> => {
      const stored = await storeCheckpoint(steps, progress, { checkpointId, durability: input.durability });
      undo.settle('abandonUpload');
      return stored;
    };

    let end: ResumeResult;
    let local: CommitLocalResult;
    let stored: Stored;
    switch (after) {
      case 'resume':
        end = await letGo();
        local = await commit();
        stored = await upload();
        break;
      case 'hold':
        local = await commit();
        progress.enter('holding');
        await condition(released, holdBudgetMs);
        end = await letGo();
        stored = await upload();
        break;
      case 'stop':
        local = await commit();
        stored = await upload();
        end = await stop();
        break;
    }
    return {
      ...resultOf(input, withGpuPause(captured, end), local, stored),
      checkpointId,
      container: source,
      source: end.source === 'gone' ? 'stopped' : end.source,
      gpuProcesses: saved.gpuProcesses,
      vramBytes: saved.vramBytes,
      // With `after: resume` the capture has told what its end tells again.
      warnings: [...new Set([...warnings, ...plan.warnings, ...captured.warnings, ...endWarnings(after, end)])],
    };
  });
}

function factsOf({ bytes, freezeMs, gpuProcesses, vramBytes }: CheckpointResult): Record<string, number> {
  return {
    bytes: bytes.total,
    storedBytes: bytes.stored,
    freezeMs,
    ...(gpuProcesses === 0 ? {} : { gpuProcesses, vramBytes }),
  };
}

/** A source that was to end may have run on: its hold ended before the upload did. */
function endWarnings(after: CheckpointInput['after'], end: ResumeResult): string[] {
  const ranOn =
    'the source was to be stopped, but its hold budget was over first: it runs on, and a restore is a second copy';
  return [
    ...(after === 'stop' && end.source === 'running' ? [ranOn] : []),
    ...(end.gpu?.warnings ?? []),
    ...resumeWarnings(end),
  ];
}

/** The GPU of a source that was held is out of use for longer than its capture knew. */
function withGpuPause(captured: CaptureResult, end: ResumeResult): CaptureResult {
  const { gpu } = end;
  return gpu === undefined ? captured : { ...captured, phases: { ...captured.phases, gpuPauseMs: gpu.pauseMs } };
}

interface CaptureEnd {
  readonly steps: NodeProxies;
  readonly step: StepInput;
  readonly undo: Compensation;
  readonly lock: ContainerLockClient;
  readonly progress: ProgressTracker;
}

/** The source runs again or is ended, verified; the operation on the node is over; others may have the container. */
async function endCapture(parts: CaptureEnd, how: 'resumeContainer' | 'stopContainer'): Promise<ResumeResult> {
  const { steps, step, undo, lock, progress } = parts;
  progress.enter(how === 'resumeContainer' ? 'resuming' : 'stopping');
  const end = await steps.thaw[how](step);
  progress.runs();
  undo.settle('resumeContainer');
  await steps.thaw.endOperation(step);
  undo.settle('endOperation');
  lock.release();
  undo.settle('releaseLock');
  return end;
}

function resultOf(
  input: CheckpointInput,
  captured: CaptureResult,
  local: CommitLocalResult,
  stored: Stored,
): Pick<CheckpointResult, 'node' | 'durability' | 'freezeMs' | 'phases' | 'bytes' | 'localPath' | 'remote'> {
  return {
    node: input.node,
    durability: input.durability,
    freezeMs: captured.phases.freezeMs,
    phases: captured.phases,
    bytes: { total: local.totalBytes, stored: stored.sentBytes },
    localPath: local.localPath,
    ...(stored.remote === undefined ? {} : { remote: stored.remote }),
  };
}

function releaseHandler(): () => boolean {
  let released = false;
  setHandler(
    releaseSignal,
    () => {
      released = true;
    },
    { description: 'after: hold — let the source run on now' },
  );
  return () => released;
}

import { uuid4, workflowInfo } from '@temporalio/workflow';
import type { StepInput } from '../activities/contract.ts';
import { rehearseInput, type RehearseRequest, type RehearseResult } from '../core/contract/gpu.ts';
import { newRehearsalId } from '../core/ids.ts';
import { Compensation } from './compensation.ts';
import { failure } from './failures.ts';
import { ContainerLockClient } from './lock-client.ts';
import { runOperation } from './operation.ts';
import { resolvedContainer } from './probe.ts';
import { ProgressTracker, parseRequest, targetName } from './progress.ts';
import { lockProxy, nodeProxies } from './proxies.ts';
import { pushResume, resumeWarnings } from './resume-source.ts';

/**
 * Locks, saves, restores and unlocks the GPU state of a container in place. Nothing is captured and nothing is stored:
 * what it leaves is a note on the node that these processes came back once. A process that the driver cannot bring back
 * is lost by this, which is why it is run while a job is young; the operation then ends as `Poisoned`.
 */
export async function rehearse(request: RehearseRequest): Promise<RehearseResult> {
  const input = parseRequest(rehearseInput, request);
  const { node, timeouts, freezeBudgetMs, gpu } = input;
  // Every step on a node is named by a checkpoint id; this one never becomes a checkpoint.
  const checkpointId = newRehearsalId(workflowInfo().startTime.toISOString(), uuid4());
  const container = targetName(input.container);
  const progress = new ProgressTracker({ node, container, firstPhase: 'probing' });
  const summary = `${container} on ${node}`;
  const lock = new ContainerLockClient(lockProxy(summary));
  const steps = nodeProxies({ node, timeouts, summary });
  const undo = new Compensation();

  return runOperation({ node, undo, progress, delivered: () => lock.delivered() }, async () => {
    const probe = await steps.probe.probeNode({ container: input.container });
    const source = resolvedContainer(probe, node);
    progress.resolved(`${source.namespace}/${source.id}`);

    progress.enter('locking');
    undo.push('releaseLock', async () => lock.release(), { always: true });
    const token = await lock.acquire({ node, ...source }, { minToken: probe.newestToken, waitMs: timeouts.lockWaitMs });
    const context = { checkpointId, container: source, token };
    const step: StepInput = { context };

    progress.enter('planning');
    undo.push('endOperation', () => steps.undo.endOperation(step));
    undo.push('discardCapture', () => steps.undo.discardCapture(step));
    const plan = await steps.capture.planCheckpoint({
      context,
      engine: 'runc',
      tcp: 'keep',
      after: 'resume',
      freezeBudgetMs,
      holdBudgetMs: freezeBudgetMs,
      gpu,
      rehearsal: true,
    });
    progress.gpu(plan.gpuProcesses, plan.vramBytes);
    if (plan.gpuProcesses === 0) {
      throw failure(
        'GpuUnsupported',
        `nothing to rehearse: no process of container ${source.namespace}/${source.id} on ${node} uses a GPU; it was not touched`,
        {
          node,
          remedy: 'rehearse when the job has made its CUDA contexts; a container without a GPU needs no rehearsal',
        },
      );
    }

    progress.enter('starting-runner');
    pushResume({ steps, step, undo, progress });
    await steps.capture.startRunner(step);

    progress.enter('saving-gpu');
    progress.standsStill('freeze', freezeBudgetMs);
    const saved = await steps.capture.saveGpuState(step);

    progress.enter('resuming');
    const resumed = await steps.thaw.resumeContainer(step);
    progress.runs();
    undo.settle('resumeContainer');
    // Before the plan goes, which says what these processes were.
    await steps.thaw.recordRehearsal(step);
    await steps.thaw.endOperation(step);
    undo.settle('endOperation');
    await steps.thaw.discardCapture(step);
    undo.settle('discardCapture');
    lock.release();
    undo.settle('releaseLock');

    return {
      node,
      container: source,
      gpuProcesses: saved.gpuProcesses,
      vramBytes: saved.vramBytes,
      ...(resumed.gpu === undefined ? {} : { gpuPauseMs: resumed.gpu.pauseMs }),
      parts: resumed.gpu?.parts ?? saved.parts,
      warnings: [...plan.warnings, ...(resumed.gpu?.warnings ?? []), ...resumeWarnings(resumed)],
    };
  });
}

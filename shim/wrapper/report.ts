/* The wrapper's last word to the agent. */
import type { CompleteRestoreResponse } from '../../core/contract/restore.ts';
import { KybernateError, isKybernateError } from '../../core/errors.ts';
import { type Job, type WrapperDeps, containerOf, timed } from './job.ts';

const COMPLETE_GRACE_MS = 60_000;

/**
 * The agent brings the GPU state back and ends the operation. A workload without one already runs as it should: an agent
 * that went away in the meantime is no reason to kill it.
 */
export async function complete(deps: WrapperDeps, job: Job, initHostPid: number, needsGpu: boolean): Promise<void> {
  let answer: CompleteRestoreResponse = { proceed: true };
  try {
    answer = await timed(job, 'complete', () => report(deps, job, 'restored', initHostPid, []));
  } catch (error) {
    if (needsGpu || !isKybernateError(error, 'NodeUnavailable')) {
      throw error;
    }
    deps.log(job.create, 'warning', `kybernate: ${error.message}; the container runs`);
  }
  if (!answer.proceed) {
    job.again = answer.again === true;
    throw new KybernateError(
      answer.errorType ?? 'RestoreFailed',
      answer.reason ?? 'the agent could not bring the GPU state back',
    );
  }
}

export async function report(
  deps: WrapperDeps,
  job: Job,
  outcome: 'restored' | 'cold-started' | 'failed',
  initHostPid: number,
  errors: readonly string[],
): Promise<CompleteRestoreResponse> {
  if (job.prepared === undefined) {
    return { proceed: false };
  }
  const call = {
    operationId: job.prepared.operationId,
    container: containerOf(job.create),
    outcome,
    initHostPid,
    restoreMs: Math.round((performance.now() - job.begun) * 10) / 10,
    parts: job.parts,
    errors: errors.map((line) => line.slice(0, 1000)).slice(-40),
    // An agent of before knows neither.
    ...(job.warnings.length === 0 ? {} : { warnings: job.warnings.map((line) => line.slice(0, 2000)).slice(-40) }),
    ...(job.refusedByHook === true ? { errorType: 'HookFailed' as const } : {}),
    ...(job.prepared.traceparent === undefined ? {} : { spans: job.spans.slice(0, 64) }),
  };
  // The agent keeps to the budget by itself: this is for one that hangs.
  return deps.agent.completeRestore(call, job.prepared.restoreBudgetMs + COMPLETE_GRACE_MS, job.prepared.traceparent);
}

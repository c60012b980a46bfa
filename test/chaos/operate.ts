/* Operations as users start them, and their ends as Temporal tells them, whatever was killed meanwhile. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WorkflowFailedError } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import type { CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { RestoreRequest } from '../../core/contract/restore.ts';
import { messageOf } from '../../core/errors.ts';
import type { Job } from './jobs.ts';
import type { Wish } from './plan.ts';
import type { Rig } from './rig.ts';

export const FREEZE_BUDGET_MS = 6000;
export const HOLD_BUDGET_MS = 2000;
/** An operation that takes longer is stuck. */
export const STUCK_MS = 150_000;
const TIMEOUTS = { nodePickupMs: 8000, lockWaitMs: 60_000, stepMs: 60_000, heartbeatMs: 2000, uploadMs: 90_000 };
const POLL_MS = 100;

export interface Outcome {
  readonly workflowId: string;
  readonly checkpointId: string;
  /** ms since 1970 */
  readonly begun: number;
  readonly ended: number;
  /** of the last run of the workflow: `COMPLETED`, `FAILED`, `CANCELLED`, `TERMINATED`; `STUCK`: it has not ended */
  readonly status: string;
  readonly result?: unknown;
  readonly error?: string;
}

/** Started under this workflow id already; its moments are told by the journal. */
export interface Running {
  readonly workflowId: string;
  readonly checkpointId: string;
  readonly end: Promise<Outcome>;
}

let serial = 0;

function common(rig: Rig, job: Job, checkpointId: string): Pick<RestoreRequest, 'timeouts'> & Common {
  return { node: rig.node, container: { id: job.id, namespace: rig.namespace }, checkpointId, timeouts: TIMEOUTS };
}

interface Common {
  readonly node: string;
  readonly container: { readonly id: string; readonly namespace: string };
  readonly checkpointId: string;
}

export function startCheckpoint(rig: Rig, job: Job, wish: Extract<Wish, { kind: 'checkpoint' }>): Running {
  serial += 1;
  const checkpointId = `${job.id}-${process.pid.toString(36)}-${serial}`;
  const { after, durability, engine } = wish;
  const request = {
    ...common(rig, job, checkpointId),
    after,
    durability,
    engine,
    freezeBudgetMs: FREEZE_BUDGET_MS,
    holdBudgetMs: HOLD_BUDGET_MS,
  };
  const workflowId = `chaos-${checkpointId}`;
  const start = (): Promise<unknown> => rig.client.checkpoint(request, { workflowId });
  return { workflowId, checkpointId, end: follow(rig, { workflowId, checkpointId, start }) };
}

export function startRestore(rig: Rig, job: Job, checkpointId: string, source: 'auto' | 'store'): Running {
  serial += 1;
  const workflowId = `chaos-restore-${checkpointId}-${serial}`;
  const { network } = job.kind;
  const request = {
    ...common(rig, job, checkpointId),
    source,
    restoreBudgetMs: 30_000,
    ...(network === undefined ? {} : { networkNamespace: network.path }),
  };
  const start = (): Promise<unknown> => rig.client.restore(request, { workflowId });
  return { workflowId, checkpointId, end: follow(rig, { workflowId, checkpointId, start }) };
}

interface Followed {
  readonly workflowId: string;
  readonly checkpointId: string;
  readonly start: () => Promise<unknown>;
}

/** Never rejects: a server that is away is asked again. */
async function follow(rig: Rig, { workflowId, checkpointId, start }: Followed): Promise<Outcome> {
  const begun = Date.now();
  const outcome = (status: string, more: Partial<Outcome> = {}): Outcome => ({
    workflowId,
    checkpointId,
    begun,
    ended: Date.now(),
    status,
    ...more,
  });
  let started = false;
  while (Date.now() - begun < STUCK_MS) {
    try {
      if (!started) {
        await start();
        started = true;
      }
      const handle = rig.temporalClient.workflow.getHandle(workflowId);
      const { status, runId } = await handle.describe();
      if (status.name !== 'RUNNING') {
        const run = rig.temporalClient.workflow.getHandle(workflowId, runId, { followRuns: false });
        return await run.result().then(
          (result: unknown) => outcome(status.name, { result }),
          (error: unknown) => outcome(status.name, { error: reasonOf(error) }),
        );
      }
    } catch {
      // The server is away: it comes back.
    }
    await sleep(POLL_MS);
  }
  return outcome('STUCK');
}

function reasonOf(error: unknown): string {
  const cause = error instanceof WorkflowFailedError ? error.cause : undefined;
  const type = cause instanceof ApplicationFailure ? `${cause.type ?? ''} ` : '';
  return `${type}${messageOf(cause ?? error)}`;
}

export function sourceOf(outcome: Outcome): CheckpointResult['source'] | undefined {
  return (outcome.result as CheckpointResult | undefined)?.source;
}

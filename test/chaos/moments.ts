/* Where an operation is, as the node's own files tell: journals of checkpoints, records of restores. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { readJournal } from '../../engine/journal.ts';
import { readJson } from '../../engine/operation.ts';
import type { Job } from './jobs.ts';
import type { Outcome } from './operate.ts';
import type { Rig } from './rig.ts';

/** The operation of a job in this round. */
export interface Target {
  readonly job: Job;
  readonly workflowId: string;
  readonly checkpointId: string;
  /** set when it has ended */
  ended?: Outcome;
}

interface PlanOrRestore {
  readonly checkpointId?: string;
  readonly container?: { readonly id: string };
  readonly state?: string;
}

/** A plan is written once; who waits for a moment asks again and again. */
const plans = new Map<string, PlanOrRestore>();

function planOf(dir: string): PlanOrRestore | undefined {
  const known = plans.get(dir);
  if (known !== undefined) {
    return known;
  }
  const plan = readJson(join(dir, 'plan.json')) as PlanOrRestore | undefined;
  if (plan !== undefined) {
    plans.set(dir, plan);
  }
  return plan ?? (readJson(join(dir, 'restore.json')) as PlanOrRestore | undefined);
}

/** Directory of the target's operation on the node, while there is one. */
export function operationOf(rig: Rig, { job, checkpointId }: Target): string | undefined {
  const dir = join(rig.runDir, 'operations');
  const names = existsSync(dir) ? readdirSync(dir) : [];
  names.forEach((name) => rig.operationsSeen.add(name));
  return names
    .map((name) => join(dir, name))
    .find((one) => {
      const record = planOf(one);
      return record?.container?.id === job.id && record.checkpointId === checkpointId;
    });
}

/** Has the operation come to this moment? */
export function reached(rig: Rig, target: Target, at: string): boolean {
  if (at === 'start') {
    return true;
  }
  if (at === 'committed') {
    return existsSync(join(rig.stateDir, 'checkpoints', `checkpoint-${target.checkpointId}`, 'metadata.json'));
  }
  const operation = operationOf(rig, target);
  return operation !== undefined && stepsOf(operation).includes(at);
}

function stepsOf(operation: string): string[] {
  const steps = readJournal(join(operation, 'journal.jsonl')).map(({ step, state }) => `${step} ${state}`);
  const restore = planOf(operation)?.state;
  return restore === undefined ? steps : [...steps, restore];
}

export function lastStep(rig: Rig, target: Target): string {
  const operation = operationOf(rig, target);
  const ended = target.ended === undefined ? 'under way' : 'ended';
  return (operation === undefined ? undefined : stepsOf(operation).at(-1)) ?? ended;
}

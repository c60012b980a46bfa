/* The frame of the order tables: a step throws, or the workflow is cancelled inside it. */
import type { WorkflowHandle } from '@temporalio/client';

import {
  fails,
  gate,
  once,
  outcomeOf,
  stepsOf,
  untilCancelled,
  type Harness,
  type Outcome,
  type Scenario,
  type StepName,
} from './harness.ts';

export interface Ending {
  readonly steps: readonly string[];
  readonly outcome: Outcome;
}

type Start = (scenario: Scenario) => Promise<WorkflowHandle>;

export const SCRIPTED_TYPE = 'DumpFailed';

/** Steps without heartbeats cannot be cancelled from outside: the cancellation counts when they have ended. */
const SHORT: ReadonlySet<string> = new Set([
  'probeNode',
  'requestLock',
  'resolveLocal',
  'findCheckpoint',
  'confirmUpload',
]);

export async function endingWhenStepThrows(start: Start, step: StepName): Promise<Ending> {
  const handle = await start({ steps: { [step]: once(fails(SCRIPTED_TYPE)) } });
  const outcome = await outcomeOf(handle);
  return { steps: await stepsOf(handle), outcome };
}

export async function endingWhenCancelledIn(
  harness: Harness,
  id: string,
  start: Start,
  step: StepName,
): Promise<Ending> {
  const reached = harness.reached(id, step);
  const { script, open } = gate();
  const handle = await start({ steps: { [step]: once(SHORT.has(step) ? script : untilCancelled) } });
  await reached;
  await handle.cancel();
  open();
  const outcome = await outcomeOf(handle);
  return { steps: await stepsOf(handle), outcome };
}

/** Everything up to and including the step, then its undo. */
export function upTo(story: readonly string[], step: string, undo: readonly string[]): string[] {
  return [...story.slice(0, story.indexOf(step) + 1), ...undo];
}

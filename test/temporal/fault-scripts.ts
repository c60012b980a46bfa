/* What a step of the fault table does in the place of its happy result. */
import { Context, getClient } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';

import type { Script } from './harness.ts';

/** Waits until `open` is called, whatever happens meanwhile, then succeeds. */
export function deafGate(): { script: Script; open: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  const script: Script = async (_input, happy) => {
    const context = Context.current();
    const beat = setInterval(() => context.heartbeat(), 50);
    await promise.finally(() => clearInterval(beat));
    return happy();
  };
  return { script, open: () => resolve() };
}

/** The script is for one activity of the step and its attempts; the same step as an undo is another activity. */
export function only(nth: number, script: Script, otherwise: Script = (_input, happy) => happy()): Script {
  const activities = new Set<string>();
  return (input, happy) => {
    const { activityId } = Context.current().info;
    const isFaulty = activities.add(activityId).size === nth && [...activities].at(-1) === activityId;
    const answer = (): Promise<unknown> => otherwise(input, happy);
    return isFaulty ? script(input, answer) : answer();
  };
}

/** What the lock would say, without the lock: it costs as much as the operation itself. */
export const grants: Script = async () => {
  const { workflowId = '' } = Context.current().info.workflowExecution ?? {};
  await getClient().workflow.getHandle(workflowId).signal('lockGranted', { lockId: 'lock-of-nobody', token: 1 });
};

/** Fails at its first attempt, as if by chance. */
export function stumbles(next: Script = (_input, happy) => happy()): Script {
  return (input, happy) =>
    Context.current().info.attempt === 1
      ? Promise.reject(ApplicationFailure.retryable('a moment of weakness', 'Internal'))
      : next(input, happy);
}

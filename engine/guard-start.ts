/* Starting the freeze guard of an operation, and being sure that it is armed. */
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { NodeSettings } from './node-deps.ts';
import { operationPaths, type OperationPaths, type OperationPlan } from './operation.ts';
import { guardPid, launch, type Launched } from './runner-process.ts';

const GUARD_START_MS = 15_000;

/** Guards that were launched by this process and are not confirmed yet, by operation id. */
const arming = new Map<string, Launched>();

/** Does not wait: it is armed while the workflow comes to its next step, which waits for that. */
export function startGuard(settings: NodeSettings, paths: OperationPaths, operationId: string): void {
  const guard = launch(settings, 'guard', paths);
  if (guard !== undefined) {
    arming.set(operationId, guard);
  }
}

/**
 * Returns when the operation's guard is armed: before its first lock or freeze, which the runner refuses otherwise. One that
 * was killed is replaced.
 * @throws Internal it does not start; nothing was touched
 */
export async function confirmGuard(settings: NodeSettings, op: Op, operationId: string): Promise<void> {
  const paths = operationPaths(settings, operationId);
  const launched = arming.get(operationId);
  arming.delete(operationId);
  if (settings.guardCommand === undefined || guardPid(paths) !== undefined) {
    return;
  }
  const guard = launched?.ended() === false ? launched : launch(settings, 'guard', paths);
  const deadline = performance.now() + GUARD_START_MS;
  for (let gone = false; !gone && performance.now() < deadline; await sleep(2)) {
    op.signal.throwIfAborted();
    gone = guard?.ended() !== false;
    if (guardPid(paths) !== undefined) {
      return;
    }
  }
  throw new KybernateError(
    'Internal',
    `the freeze guard did not start (see ${paths.guardLog} and guards.log beside the operations); nothing was touched`,
  );
}

/** The operation has ended. */
export function forgetGuard(operationId: string): void {
  arming.delete(operationId);
}

/** Nothing is locked or frozen unless somebody is there who lets it go when the runner cannot. @throws Internal */
export function refuseUnguarded({ settings, operationId }: OperationPlan): void {
  const paths = operationPaths(settings, operationId);
  if (settings.guardCommand !== undefined && guardPid(paths) === undefined) {
    throw new KybernateError(
      'Internal',
      `the freeze guard of operation ${operationId} is not there (see ${paths.guardLog}); the container was not touched ` +
        'and runs; the next attempt starts another guard',
    );
  }
}

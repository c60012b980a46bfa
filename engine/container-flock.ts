/* The flock of a container on this node: whoever holds it may touch the container, and nobody else. */
import { closeSync, openSync } from 'node:fs';
import { KybernateError } from '../core/errors.ts';
import { tryLockExclusive } from '../native/libc/flock.ts';
import { lockFile, type OperationPlan } from './operation.ts';

/**
 * The guarantee that one operation at a time touches the container. Whoever undoes a dead runner's work takes it too:
 * the token orders operations, but never keeps a frozen workload frozen.
 *
 * @returns the descriptor that holds the lock
 * @throws LockLost when another operation holds the container
 */
export function takeContainerLock(plan: OperationPlan): number {
  const fd = openSync(lockFile(plan.settings, plan.container), 'a', 0o600);
  if (!tryLockExclusive(fd)) {
    closeSync(fd);
    throw new KybernateError(
      'LockLost',
      `another operation holds the lock of container ${plan.container.namespace}/${plan.container.id} on this node; ` +
        `this one touched nothing`,
    );
  }
  return fd;
}

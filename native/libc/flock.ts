import { LOCK_EX, LOCK_NB } from './abi.ts';
import { lastErrno, libc, libcError } from './bindings.ts';

/**
 * Takes the exclusive flock of an open file without waiting. It belongs to the open file description: every process
 * that inherits the descriptor holds it, and it ends with the last of them.
 *
 * @returns false when another one holds it
 */
export function tryLockExclusive(fd: number): boolean {
  if (libc().flock(fd, LOCK_EX | LOCK_NB) === 0) {
    return true;
  }
  if (lastErrno() === 'EAGAIN') {
    return false;
  }
  throw libcError(`flock of descriptor ${fd}`);
}

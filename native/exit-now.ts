/*
 * Ending a process that may have calls of a library under way. Node waits in `process.exit` for every thread of its pool,
 * so that one call which a driver never answers keeps the process for ever. Imports nothing: it is used where no library
 * may be loaded.
 */

let pending = 0;

/** Calls that are under way on other threads of this process. */
export function pendingCalls(): number {
  return pending;
}

/** @returns to be called once, when the call is over */
export function beginCall(): () => void {
  pending += 1;
  return () => {
    pending -= 1;
  };
}

/**
 * `process.exit`, which does not wait: with calls under way the process ends by SIGKILL to itself, and its exit code is
 * lost. The driver finishes what it was asked for on the other process all the same.
 */
export function exitNow(code: number): never {
  if (pending > 0) {
    process.kill(process.pid, 'SIGKILL');
  }
  process.exit(code);
}

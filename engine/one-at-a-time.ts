/*
 * Plans of checkpoints and restores look at what the node has left and at what others were promised, and write down what
 * they take: two of them must never both see the same free disk, memory or GPU.
 */

let last: Promise<unknown> = Promise.resolve();

/** Runs after every act that was given before it has ended. `act` looks and takes; it waits for nothing long. */
export function oneAtATime<Result>(act: () => Promise<Result>): Promise<Result> {
  const result = last.then(act);
  last = result.catch(() => undefined);
  return result;
}

/* Bounded concurrency. */

/** Jobs for Node's thread pool at once: its size by default. More only fill memory and caches. */
export const POOL_JOBS = 4;

/**
 * Calls `act` for every item, at most `limit` at a time, in order of the items. After the first failure or when
 * `signal` aborts no further call starts, the running ones are waited for, and then that error is thrown.
 */
export async function forEachLimit<Item>(
  items: Iterable<Item> | AsyncIterable<Item>,
  limit: number,
  signal: AbortSignal,
  act: (item: Item) => Promise<void>,
): Promise<void> {
  const running = new Set<Promise<void>>();
  const failures: unknown[] = [];
  try {
    for await (const item of items) {
      signal.throwIfAborted();
      if (failures.length > 0) {
        break;
      }
      const call = act(item)
        .catch((error: unknown) => {
          failures.push(error);
        })
        .finally(() => running.delete(call));
      running.add(call);
      if (running.size >= limit) {
        await Promise.race(running);
      }
    }
  } finally {
    await Promise.all(running);
  }
  if (failures.length > 0) {
    throw failures[0];
  }
  signal.throwIfAborted();
}

/** The results of `act` for every item, in their order, at most `limit` calls at a time. */
export async function mapLimit<Item, Result>(
  items: readonly Item[],
  limit: number,
  signal: AbortSignal,
  act: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  await forEachLimit(items.entries(), limit, signal, async ([index, item]) => {
    results[index] = await act(item);
  });
  return results;
}

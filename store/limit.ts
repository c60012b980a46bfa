/* Bounded concurrency. */

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

/**
 * The results of `act` for every item, in their order; up to `limit` calls are ahead of the consumer. After a failure,
 * when `signal` aborts or when the consumer stops, the running calls are waited for.
 */
export async function* mapAhead<Item, Result>(
  items: Iterable<Item>,
  limit: number,
  signal: AbortSignal,
  act: (item: Item) => Promise<Result>,
): AsyncGenerator<Result> {
  const ahead: Array<Promise<Result>> = [];
  try {
    for (const item of items) {
      signal.throwIfAborted();
      const call = act(item);
      // Whoever comes to it sees its failure; until then nobody listens.
      call.catch(() => undefined);
      ahead.push(call);
      const first = ahead.length >= limit ? ahead.shift() : undefined;
      if (first !== undefined) {
        yield await first;
      }
    }
    for (let first = ahead.shift(); first !== undefined; first = ahead.shift()) {
      signal.throwIfAborted();
      yield await first;
    }
  } finally {
    await Promise.allSettled(ahead);
  }
}

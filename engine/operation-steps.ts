/*
 * Steps of one operation in this process, one after the other: an attempt that Temporal gave up may still be at work when
 * the next one comes, and whoever ends the operation must know when nothing of it is under way any more.
 */

const underWay = new Map<string, Promise<unknown>>();

/** Runs `act` when the earlier steps of the operation have ended. */
export function asStep<Result>(operationId: string, act: () => Promise<Result>): Promise<Result> {
  const result = (underWay.get(operationId) ?? Promise.resolve()).then(act);
  const settled = result.then(
    () => undefined,
    () => undefined,
  );
  underWay.set(operationId, settled);
  void settled.then(() => {
    if (underWay.get(operationId) === settled) {
      underWay.delete(operationId);
    }
  });
  return result;
}

export function isStepUnderWay(operationId: string): boolean {
  return underWay.has(operationId);
}

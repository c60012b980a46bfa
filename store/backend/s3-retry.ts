/*
 * The one place that decides whether a request to S3 is worth another try, and when; the SDK's own retries are off. A
 * server that says why it cannot is asked up to six times, with growing pauses; one that cannot be reached or cuts us off
 * three times; silence ends after two attempts of 6 s. Longer outages are the caller's business: nothing that is stored is sent again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isPassing, statusOf } from './s3-errors.ts';

const ATTEMPTS = { answered: 6, unanswered: 3 };
/** No attempt begins later than this. */
const GIVE_UP_AFTER_MS = 8000;
/** Scale of the first pause; each later one is twice as long. */
export const RETRY_PAUSE_MS = 100;

/** @throws the error of the last attempt; the signal's reason when it aborts in a pause */
export async function retrying<Result>(
  act: () => Promise<Result>,
  signal: AbortSignal | undefined,
  pauseMs = RETRY_PAUSE_MS,
): Promise<Result> {
  const startedAt = performance.now();
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await act();
    } catch (error) {
      signal?.throwIfAborted();
      const late = performance.now() - startedAt > GIVE_UP_AFTER_MS;
      const attempts = statusOf(error) === undefined ? ATTEMPTS.unanswered : ATTEMPTS.answered;
      if (late || attempt >= attempts || !isPassing(error)) {
        throw error;
      }
    }
    // All of it is random: many nodes that were refused at once must not come back at once.
    await sleep(Math.random() * pauseMs * 2 ** attempt, undefined, signal === undefined ? {} : { signal }).catch(() =>
      signal?.throwIfAborted(),
    );
  }
}

/* Waiting for servers: polls with a deadline, and ports that nobody listens on. */
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

import { KybernateError } from '../../core/errors.ts';

/**
 * Polls until `probe` gives something other than undefined or false.
 * @throws Internal when `timeoutMs` has passed; `explain` adds what a person should look at
 */
export async function waitFor<T>(
  what: string,
  timeoutMs: number,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  explain: () => string = () => '',
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (let pauseMs = 10; ; pauseMs = Math.min(pauseMs * 1.5, 200)) {
    const value = await probe();
    if (value !== undefined && value !== false) {
      return value;
    }
    if (performance.now() > deadline) {
      throw new KybernateError('Internal', `no ${what} after ${timeoutMs} ms ${explain()}`.trim());
    }
    await sleep(pauseMs);
  }
}

function listenOnce(port: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : undefined));
    });
  });
}

/** Whoever got one of them may not listen on it yet. */
const given = new Set<number>();

/** A loopback TCP port that was free a moment ago: `preferred` if possible, else another one at every call. */
export async function freePort(preferred?: number): Promise<number> {
  const wished = preferred === undefined ? undefined : await listenOnce(preferred);
  let port = wished ?? (await listenOnce(0));
  while (port !== undefined && port !== wished && given.has(port)) {
    port = await listenOnce(0);
  }
  if (port === undefined) {
    throw new KybernateError('Internal', 'no free TCP port on 127.0.0.1');
  }
  given.add(port);
  return port;
}

/** True when a GET of `url` answers 200 within a second. */
export async function answers(url: string): Promise<boolean> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(1000) });
    await response.body?.cancel();
    return response.status === 200;
  } catch {
    // Refused, reset or late: not up yet.
    return false;
  }
}
